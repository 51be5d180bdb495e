//! Measurements as they are typed (`val/loss=0.41@200`), or written by a training script or by MLflow.

mod mlflow;

use std::path::Path;

use flair_node::api::types::{MetricValue, Problem};
use serde_json::Value;

/// Largest file of measurements that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// Reads `split/name=value`, optionally with `@examples`.
pub(crate) fn parse(text: &str) -> Result<MetricValue, String> {
    let expected = "a measurement reads `split/name=value`, `val/loss=0.41` say, or `val/loss=0.41@200` when measured \
                    on 200 examples";
    let (key, rest) = text.split_once('=').ok_or(expected)?;
    let (value, n) = match rest.split_once('@') {
        Some((value, n)) => (value, n.parse().map_err(|_| expected)?),
        None => (rest, 0),
    };
    metric(key, value.parse().map_err(|_| expected)?, n)
}

fn metric(key: &str, value: f64, n: u64) -> Result<MetricValue, String> {
    let (split, name) =
        key.split_once('/').ok_or_else(|| format!("`{key}` names no split: `val/{key}` say"))?;
    if split.is_empty() || name.is_empty() {
        return Err(format!("`{key}` is no measurement's name: `val/loss` say"));
    }
    if !value.is_finite() {
        return Err(format!("{key} is {value}: only finite numbers can be compared"));
    }
    Ok(MetricValue { split: split.into(), name: name.into(), value, n })
}

/// Reads a JSON file: `{"val/loss": 0.41}`, `{"val": {"loss": 0.41}}`, or a list of
/// `{"split": "val", "name": "loss", "value": 0.41, "n": 200}`; or a folder in which MLflow keeps runs, or one of them.
pub(crate) fn read(path: &Path) -> Result<Vec<MetricValue>, Problem> {
    if path.is_dir() {
        return mlflow::read(path);
    }
    let wrong = |error: String| Problem::invalid(format!("{}: {error}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > LARGEST {
        return Err(wrong("this is too long for a file of measurements".into()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    metrics(&value).map_err(|error| {
        wrong(error).help(
            "write {\"val/loss\": 0.41}, {\"val\": {\"loss\": 0.41}} or a list with split, name, value, n",
        )
    })
}

fn metrics(value: &Value) -> Result<Vec<MetricValue>, String> {
    let number = |key: &str, value: &Value, n| {
        let number = value.as_f64().ok_or_else(|| format!("{key} is not a number"))?;
        metric(key, number, n)
    };
    match value {
        Value::Array(rows) => rows
            .iter()
            .map(|row| {
                let read: MetricRow =
                    serde_json::from_value(row.clone()).map_err(|error| error.to_string())?;
                metric(&format!("{}/{}", read.split, read.name), read.value, read.n)
            })
            .collect(),
        Value::Object(map) => {
            let mut all = Vec::new();
            for (key, value) in map {
                match value {
                    Value::Object(below) => {
                        for (name, value) in below {
                            all.push(number(&format!("{key}/{name}"), value, 0)?);
                        }
                    }
                    value => all.push(number(key, value, 0)?),
                }
            }
            Ok(all)
        }
        _ => Err("no measurements in it".into()),
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricRow {
    split: String,
    name: String,
    value: f64,
    #[serde(default)]
    n: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(metric: &MetricValue) -> (String, f64, u64) {
        (format!("{}/{}", metric.split, metric.name), metric.value, metric.n)
    }

    #[test]
    fn measurements_are_read_as_people_and_scripts_write_them() {
        assert_eq!(key(&parse("val/loss=0.41").unwrap()), ("val/loss".into(), 0.41, 0));
        assert_eq!(key(&parse("val/loss=1e-3@200").unwrap()), ("val/loss".into(), 0.001, 200));
        for bad in
            ["loss=1", "val/loss", "val/loss=low", "val/loss=NaN", "/loss=1", "val/=1", "val/loss=1@few"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for text in [
            r#"{"val/loss": 0.5}"#,
            r#"{"val": {"loss": 0.5}}"#,
            r#"[{"split": "val", "name": "loss", "value": 0.5}]"#,
        ] {
            let read = metrics(&serde_json::from_str(text).unwrap()).unwrap();
            assert_eq!(read.iter().map(key).collect::<Vec<_>>(), [("val/loss".into(), 0.5, 0)], "{text}");
        }
        for bad in [r#"{"val/loss": "low"}"#, "3", r#"[{"name": "loss"}]"#, r#"{"loss": 0.5}"#] {
            assert!(metrics(&serde_json::from_str(bad).unwrap()).is_err(), "{bad}");
        }
    }
}
