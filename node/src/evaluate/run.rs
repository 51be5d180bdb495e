//! Running the command on one model, and reading what it prints.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::Settings;
use crate::api::types::Problem;

/// Most bytes that a command may print.
const OUTPUT: usize = 1 << 20;
/// Bytes of what it says on standard error that are told when it fails.
const SAID: usize = 16 << 10;
/// The key under which a command prints how many examples it measured.
const COUNT: &str = "n";

/// What a command measured of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurements {
    /// Every number it printed, by name; those of maps within the map as `outer/inner`.
    pub values: BTreeMap<String, f64>,
    /// On how many examples; 0 when it did not say.
    pub n: u64,
}

/// Ends a command and all that it started, however this is left.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may be gone already.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs the command on the model in `folder`, in the working folder `root`; with `loud`, what it says on standard error
/// is shown as it comes.
///
/// # Errors
/// A command that fails, takes too long, prints too much, or something else than JSON with numbers.
pub async fn run(
    settings: &Settings,
    root: &Path,
    folder: &Path,
    loud: bool,
) -> Result<Measurements, Problem> {
    let command = filled(&settings.command, folder)?;
    let mut process = Command::new("/bin/sh")
        .arg("-c")
        .arg(&command)
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .process_group(0)
        .spawn()
        .map_err(|error| Problem::invalid(format!("`{command}` could not be started: {error}")))?;
    let mut group = Group(process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let (out, err) = (process.stdout.take(), process.stderr.take());
    let work = async {
        let (printed, said) = tokio::join!(printed(out), said(err, loud));
        (process.wait().await, printed, said)
    };
    let limit = Duration::from_secs(settings.timeout);
    let (status, printed, said) = tokio::select! {
        done = work => done,
        () = tokio::time::sleep(limit) => {
            let why = format!("`{command}` was ended: it took more than {} seconds", settings.timeout);
            return Err(Problem::invalid(why).help("nothing was signed. Set `timeout` (seconds) in .flair/config.toml"));
        }
        _ = tokio::signal::ctrl_c() => {
            return Err(Problem::invalid(format!("`{command}` was ended")).help("nothing was signed"));
        }
    };
    // Its number may be another's by now.
    group.0 = None;
    let status = status.map_err(Problem::internal)?;
    let nothing = |why: String| {
        Problem::invalid(why).help(format!("nothing was signed. It said:\n{}", said.trim_end()))
    };
    let Some(printed) = printed else {
        return Err(nothing(format!("`{command}` printed more than {OUTPUT} bytes")));
    };
    if !status.success() {
        return Err(nothing(format!("`{command}` failed ({})", ended(status))));
    }
    read(&printed).map_err(|why| {
        Problem::invalid(format!("`{command}`: {why}"))
            .help("nothing was signed. Let it print {\"auc\": 0.83, \"n\": 412}, as all it prints or on its last line")
    })
}

fn ended(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"))
}

/// The command with the model's place in it.
fn filled(command: &str, folder: &Path) -> Result<String, Problem> {
    if !command.contains("{model}") && !command.contains("{folder}") {
        return Err(Problem::invalid(format!("`{command}` does not say where the model goes"))
            .help("write {model} (its file) or {folder} (its folder) into the command"));
    }
    let model = model(folder)?;
    Ok(command.replace("{model}", &quoted(&model)).replace("{folder}", &quoted(folder)))
}

/// The model's file, or its folder where it has several.
fn model(folder: &Path) -> Result<PathBuf, Problem> {
    let entries = std::fs::read_dir(folder).map_err(Problem::internal)?;
    let mut files = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    Ok(match (files.next(), files.next()) {
        (Some(only), None) => only,
        _ => folder.to_owned(),
    })
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// All that is printed; none when it is too much.
async fn printed(out: Option<impl AsyncRead + Unpin>) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    if let Some(out) = out {
        out.take(OUTPUT as u64 + 1).read_to_end(&mut all).await.ok()?;
    }
    (all.len() <= OUTPUT).then_some(all)
}

/// The end of what is said.
async fn said(err: Option<impl AsyncRead + Unpin>, loud: bool) -> String {
    let (mut end, mut block) = (Vec::new(), [0; 4096]);
    if let Some(mut err) = err {
        while let Ok(length @ 1..) = err.read(&mut block).await {
            let new = block.get(..length).unwrap_or_default();
            if loud {
                let _ = tokio::io::stderr().write_all(new).await;
            }
            end.extend_from_slice(new);
            let surplus = end.len().saturating_sub(SAID);
            end.drain(..surplus);
        }
    }
    String::from_utf8_lossy(&end).into_owned()
}

/// Reads what a command printed: JSON, or text whose last line is JSON.
fn read(printed: &[u8]) -> Result<Measurements, String> {
    let text = std::str::from_utf8(printed).map_err(|_| "it printed something else than text".to_owned())?;
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).ok_or("it printed nothing")?;
    let value: Value = serde_json::from_str(text)
        .or_else(|_| serde_json::from_str(last))
        .map_err(|error| format!("what it printed is not JSON: {error}"))?;
    let Value::Object(map) = value else { return Err("it printed JSON that is no map".into()) };
    let mut measured = Measurements { values: BTreeMap::new(), n: 0 };
    for (name, value) in map {
        if name == COUNT {
            measured.n = value.as_u64().ok_or("its `n` is not a whole number")?;
        } else {
            collect(name, &value, &mut measured.values);
        }
    }
    Ok(measured)
}

/// Numbers by name; what else is printed is left out.
fn collect(name: String, value: &Value, values: &mut BTreeMap<String, f64>) {
    match value {
        Value::Object(map) => {
            for (inner, value) in map {
                collect(format!("{name}/{inner}"), value, values);
            }
        }
        value => {
            if let Some(number) = value.as_f64() {
                values.insert(name, number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Paths;
    use super::*;

    fn settings(command: &str, timeout: u64) -> Settings {
        Settings {
            command: command.into(),
            data: Paths::One("data".into()),
            better: BTreeMap::new(),
            code: None,
            timeout,
        }
    }

    #[test]
    fn numbers_are_read_flat_nested_and_from_the_last_line() {
        let values = |text: &str| {
            let read = read(text.as_bytes()).unwrap();
            (read.values.into_iter().collect::<Vec<_>>(), read.n)
        };
        let auc = |name: &str| (vec![(name.to_owned(), 0.5)], 7);
        assert_eq!(values("{\"auc\": 0.5,\n \"n\": 7}\n"), auc("auc"));
        assert_eq!(
            values("loading\n{\"val\": {\"auc\": 0.5}, \"n\": 7, \"model\": \"x\"}\n\n"),
            auc("val/auc")
        );
        assert_eq!(values("{\"a\": 1}"), (vec![("a".to_owned(), 1.0)], 0));
        for bad in ["", "\n", "auc 0.5", "[1]", "{\"n\": 0.5}", "{\"auc\": NaN}"] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_command_runs_in_the_working_folder_on_the_models_file() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("it's here");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("m.safetensors"), "12345").unwrap();
        std::fs::write(folder.join("config.json"), "1").unwrap();
        std::fs::write(top.path().join("here"), "").unwrap();
        let command = "test -f here && printf '{\"bytes\": %s, \"n\": 1}' $(wc -c < {model})";
        let measured = run(&settings(command, 60), top.path(), &folder, false).await.unwrap();
        assert_eq!(measured.values, [("bytes".to_owned(), 5.0)].into());
        // A model of several files is its folder.
        std::fs::write(folder.join("n.safetensors"), "12345").unwrap();
        let command = "printf '{\"files\": %s}' $(ls {model} | wc -l)";
        let measured = run(&settings(command, 60), top.path(), &folder, false).await.unwrap();
        assert_eq!(measured.values, [("files".to_owned(), 3.0)].into());
        let nowhere = run(&settings("true", 60), top.path(), &folder, false).await.unwrap_err();
        assert!(nowhere.help.unwrap().contains("{model}"));
    }

    #[tokio::test]
    async fn a_command_that_fails_says_too_much_or_takes_too_long_is_told_and_ended() {
        let top = tempfile::tempdir().unwrap();
        let failed = |command: &'static str, timeout: u64| {
            let root = top.path();
            async move { run(&settings(command, timeout), root, root, false).await.unwrap_err() }
        };
        let problem = failed("echo 'no such column' >&2; exit 3 # {model}", 60).await;
        assert!(problem.message.contains("exit code 3"), "{}", problem.message);
        assert!(problem.help.unwrap().contains("no such column"));
        let problem = failed("head -c 2000000 /dev/zero # {model}", 60).await;
        assert!(problem.message.contains("printed more"), "{}", problem.message);
        // What it started is ended too.
        let problem = failed("sleep 1000 & echo $! > started; sleep 1000 # {model}", 1).await;
        assert!(problem.message.contains("more than 1 seconds"), "{}", problem.message);
        let started = std::fs::read_to_string(top.path().join("started")).unwrap();
        let runs =
            || std::fs::read(format!("/proc/{}/cmdline", started.trim())).is_ok_and(|line| !line.is_empty());
        while runs() {
            tokio::task::yield_now().await;
        }
    }
}
