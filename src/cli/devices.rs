//! `mien devices`

/// List the cameras and the formats they offer
///
/// Each line gives a camera's picture size and rates, to be asked for with `mien run --source camera:N --size
/// 640x480 --fps 30 --format mjpg`, and where it is plugged in. Nothing is changed on a camera.
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
    use mien::source::{
        SourceError,
        camera::{self, Device},
        format::{Format, Offer, offers},
    };
    use mien::stats::round;
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
        #[serde(skip_serializing_if = "Option::is_none")]
        bus: Option<String>,
        #[serde(flatten)]
        formats: Formats,
    }

    #[derive(Debug, Serialize)]
    #[serde(rename_all = "lowercase")]
    enum Formats {
        Formats(Vec<Rates>),
        Error(String),
    }

    /// One encoding and size with all its rates, the highest first; none where the driver does not say.
    #[derive(Debug, Serialize)]
    struct Rates {
        encoding: &'static str,
        width: u32,
        height: u32,
        fps: Vec<f64>,
    }

    impl From<Offer> for Rates {
        fn from(offer: Offer) -> Self {
            Rates {
                encoding: offer.encoding.name(),
                width: offer.width,
                height: offer.height,
                fps: offer.rates.iter().map(|rate| round(rate.per_second(), 2)).collect(),
            }
        }
    }

    impl Listing {
        fn new(device: &Device, formats: Result<Vec<Format>, SourceError>) -> Self {
            Self {
                schema: SCHEMA,
                index: device.index,
                device: device.path(),
                name: device.name.clone(),
                bus: device.bus.clone(),
                formats: match formats {
                    Ok(formats) => Formats::Formats(offers(&formats).into_iter().map(Rates::from).collect()),
                    Err(error) => Formats::Error(format!("{}; {}", error.reason, error.advice)),
                },
            }
        }

        fn write(&self, out: &mut impl Write) -> io::Result<()> {
            write!(out, "camera:{}  {}  {}", self.index, self.device, self.name)?;
            match &self.bus {
                Some(bus) => writeln!(out, "  at {bus}")?,
                None => writeln!(out)?,
            }
            match &self.formats {
                Formats::Error(reason) => writeln!(out, "  not usable: {reason}"),
                Formats::Formats(formats) => formats.iter().try_for_each(|rates| {
                    let size = format!("{}x{}", rates.width, rates.height);
                    let fps: Vec<String> = rates.fps.iter().map(f64::to_string).collect();
                    match fps.is_empty() {
                        true => writeln!(out, "  {}  {size}", rates.encoding),
                        false => writeln!(out, "  {}  {size:<9}  {} fps", rates.encoding, fps.join(", ")),
                    }
                }),
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use mien::source::format::{
            Encoding::{self, Mjpg, Yuyv},
            Rate,
        };

        fn webcam() -> Device {
            Device { index: 2, name: "Webcam".into(), bus: Some("1-2:1.0".into()) }
        }

        fn format(encoding: Encoding, width: u32, height: u32, fps: u32) -> Format {
            Format { encoding, width, height, rate: Rate::new(fps, 1) }
        }

        #[test]
        fn rates_of_one_size_share_a_line() {
            let formats = vec![
                format(Mjpg, 1280, 720, 30),
                format(Yuyv, 640, 480, 15),
                format(Mjpg, 640, 480, 30),
                format(Yuyv, 640, 480, 30),
            ];
            let mut text = Vec::new();
            Listing::new(&webcam(), Ok(formats)).write(&mut text).unwrap();
            let lines: Vec<String> = String::from_utf8(text).unwrap().lines().map(str::to_owned).collect();
            assert_eq!(lines[0], "camera:2  /dev/video2  Webcam  at 1-2:1.0");
            assert_eq!(
                lines[1..],
                ["  MJPG  640x480    30 fps", "  MJPG  1280x720   30 fps", "  YUYV  640x480    30, 15 fps"]
            );
        }

        #[test]
        fn json_has_formats_or_an_error() {
            let json = |formats| serde_json::to_value(Listing::new(&webcam(), formats)).unwrap();
            let good = json(Ok(vec![format(Mjpg, 640, 480, 30)]));
            assert_eq!((&good["index"], &good["bus"]), (&2.into(), &"1-2:1.0".into()));
            assert_eq!(
                good["formats"],
                serde_json::json!([{"encoding": "MJPG", "width": 640, "height": 480, "fps": [30.0]}])
            );
            let bad = json(Err(SourceError::new("/dev/video2", "busy", "close it")));
            assert_eq!(bad["error"], "busy; close it");
            assert!(bad.get("formats").is_none());
        }
    }
}
