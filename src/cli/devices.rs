//! `mien devices`

/// List the cameras and the formats they offer
///
/// Each line gives a camera's picture size and rates, to be asked for with `mien run --source camera:N --size
/// 640x480 --fps 30`. Asking a camera for its formats sets it to one of them.
#[derive(clap::Args)]
pub struct Args {
    /// Write one JSON object per camera to standard output
    #[arg(long)]
    json: bool,
}

#[cfg(not(feature = "camera"))]
pub fn run(_: Args) -> anyhow::Result<super::Outcome> {
    anyhow::bail!("this build has no camera support; build with `--features camera`")
}

#[cfg(feature = "camera")]
pub use with_cameras::run;

#[cfg(feature = "camera")]
mod with_cameras {
    use super::{super::Outcome, Args};
    use mien::source::camera::{self, Device, Format};
    use serde::Serialize;
    use std::io::{self, BufWriter, Write};

    const SCHEMA: u32 = 1;

    pub fn run(args: Args) -> anyhow::Result<Outcome> {
        let devices = camera::devices();
        if devices.is_empty() {
            log::info!("there is no camera");
            return Ok(Outcome::NothingProcessed);
        }
        let mut out = BufWriter::new(io::stdout().lock());
        for device in devices {
            let listing = Listing::new(&device, device.formats());
            match args.json {
                true => writeln!(out, "{}", serde_json::to_string(&listing)?)?,
                false => listing.write(&mut out)?,
            }
        }
        out.flush()?;
        Ok(Outcome::Done)
    }

    /// What is said of one camera: its formats, or why they cannot be told.
    #[derive(Debug, Serialize)]
    struct Listing {
        schema: u32,
        index: u32,
        device: String,
        name: String,
        #[serde(flatten)]
        formats: Formats,
    }

    #[derive(Debug, Serialize)]
    #[serde(rename_all = "lowercase")]
    enum Formats {
        Formats(Vec<Rates>),
        Error(String),
    }

    /// One encoding and size with all its rates, the highest first.
    #[derive(Debug, Serialize)]
    struct Rates {
        encoding: String,
        width: u32,
        height: u32,
        fps: Vec<u32>,
    }

    impl Listing {
        fn new(device: &Device, formats: Result<Vec<Format>, String>) -> Self {
            Self {
                schema: SCHEMA,
                index: device.index,
                device: device.path(),
                name: device.name.clone(),
                formats: formats.map_or_else(Formats::Error, |formats| Formats::Formats(group(formats))),
            }
        }

        fn write(&self, out: &mut impl Write) -> io::Result<()> {
            writeln!(out, "camera:{}  {}  {}", self.index, self.device, self.name)?;
            match &self.formats {
                Formats::Error(reason) => writeln!(out, "  not usable: {reason}"),
                Formats::Formats(formats) => formats.iter().try_for_each(|rates| {
                    let size = format!("{}x{}", rates.width, rates.height);
                    let fps: Vec<String> = rates.fps.iter().map(u32::to_string).collect();
                    writeln!(out, "  {}  {size:<9}  {} fps", rates.encoding, fps.join(", "))
                }),
            }
        }
    }

    fn group(mut formats: Vec<Format>) -> Vec<Rates> {
        formats.sort_by_key(|format| (format.encoding, format.width, format.height, u32::MAX - format.fps));
        formats
            .chunk_by(|a, b| (a.encoding, a.width, a.height) == (b.encoding, b.width, b.height))
            .map(|chunk| Rates {
                encoding: chunk[0].encoding.to_string(),
                width: chunk[0].width,
                height: chunk[0].height,
                fps: chunk.iter().map(|format| format.fps).collect(),
            })
            .collect()
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use mien::source::camera::Encoding::{Mjpg, Yuyv};

        fn webcam() -> Device {
            Device { index: 2, name: "Webcam".into() }
        }

        #[test]
        fn rates_of_one_size_share_a_line() {
            let format = |encoding, width, height, fps| Format { encoding, width, height, fps };
            let formats = vec![
                format(Mjpg, 1280, 720, 30),
                format(Yuyv, 640, 480, 15),
                format(Mjpg, 640, 480, 30),
                format(Yuyv, 640, 480, 30),
            ];
            let mut text = Vec::new();
            Listing::new(&webcam(), Ok(formats)).write(&mut text).unwrap();
            let lines: Vec<String> = String::from_utf8(text).unwrap().lines().map(str::to_owned).collect();
            assert!(lines[0].starts_with("camera:2") && lines[0].ends_with("Webcam"));
            assert_eq!(
                lines[1..],
                ["  MJPG  640x480    30 fps", "  MJPG  1280x720   30 fps", "  YUYV  640x480    30, 15 fps"]
            );
        }

        #[test]
        fn json_has_formats_or_an_error() {
            let json = |formats| serde_json::to_value(Listing::new(&webcam(), formats)).unwrap();
            let good = json(Ok(vec![Format { encoding: Mjpg, width: 640, height: 480, fps: 30 }]));
            assert_eq!(good["index"], 2);
            assert_eq!(
                good["formats"],
                serde_json::json!([{"encoding": "MJPG", "width": 640, "height": 480, "fps": [30]}])
            );
            let bad = json(Err("busy".into()));
            assert_eq!(bad["error"], "busy");
            assert!(bad.get("formats").is_none());
        }
    }
}
