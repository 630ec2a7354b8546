//! Scalars in TensorBoard's event files.
//!
//! A file is a sequence of TFRecords: the length as u64, its checksum, a serialised `Event`, its checksum, all little
//! endian. The messages are those fields of `tensorflow/core/util/event.proto` and `framework/summary.proto` that
//! scalars need.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// An event file of its own in a run's folder; TensorBoard joins a folder's files, so that a resumed run goes on.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    pub fn create(folder: &Path) -> Result<EventFile> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
        // TensorBoard reads a folder's files in the order of their names.
        let name = format!("events.out.tfevents.{:010}.{:09}.mien", now.as_secs(), now.subsec_nanos());
        let path = folder.join(name);
        let file =
            File::create_new(&path).with_context(|| format!("making the event file {}", path.display()))?;
        let mut events = EventFile { file, path };
        let file_version = Some("brain.Event:2".to_owned());
        events.write(&Event { wall_time: now.as_secs_f64(), file_version, ..Event::default() })?;
        Ok(events)
    }

    /// Writes values by tag (`validation/macro_f1`; TensorBoard groups by what is before the slash).
    pub fn scalars<'a>(&mut self, step: u64, values: impl IntoIterator<Item = (&'a str, f64)>) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
        let value =
            |(tag, value): (&str, f64)| Value { tag: tag.to_owned(), simple_value: Some(value as f32) };
        let summary = Some(Summary { value: values.into_iter().map(value).collect() });
        self.write(&Event { wall_time: now.as_secs_f64(), step: step as i64, summary, ..Event::default() })
    }

    fn write(&mut self, event: &Event) -> Result<()> {
        let written = self.file.write_all(&record(&event.encode_to_vec()));
        written.with_context(|| format!("writing the event file {}", self.path.display()))
    }
}

/// A TFRecord.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked(crc32c(&length)).to_le_bytes());
    record.extend(data);
    record.extend(masked(crc32c(data)).to_le_bytes());
    record
}

/// TFRecord's mask: a checksum of data that holds checksums is weak.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 with Castagnoli's polynomial.
fn crc32c(data: &[u8]) -> u32 {
    const REVERSED: u32 = 0x82f6_3b78;
    let shift = |crc: u32, _| (crc >> 1) ^ (REVERSED & (crc & 1).wrapping_neg());
    !data.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), shift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::python;

    #[test]
    fn checksums_as_published() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    const READ: &str = "
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1]).Reload()
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()['scalars']}))
";

    #[test]
    fn tensorboard_reads_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        for start in [0, 2] {
            let mut events = EventFile::create(folder.path()).unwrap();
            for step in start..start + 2 {
                let values =
                    [("train/loss", 1.5 / (step + 1) as f64), ("validation/macro F1", 0.25 * step as f64)];
                events.scalars(step, values).unwrap();
            }
        }
        let Some(mut python) = python("tensorboard") else { return };
        let read = python.args(["-c", READ]).arg(folder.path()).output().unwrap();
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        let found: serde_json::Value = serde_json::from_slice(&read.stdout).unwrap();
        let expected = serde_json::json!({
            "train/loss": [[0, 1.5], [1, 0.75], [2, 0.5], [3, 0.375]],
            "validation/macro F1": [[0, 0.0], [1, 0.25], [2, 0.5], [3, 0.75]],
        });
        assert_eq!(found, expected);
    }
}
