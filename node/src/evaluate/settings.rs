//! What to run, on which data, and which way is better: `[evaluate.NAME]` in `.flair/config.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flair_protocol::operation::evaluation::Better;
use serde::Deserialize;

use crate::api::types::Problem;
use crate::folder::MARK;

/// What to write, for whoever has nothing or something wrong there.
const EXAMPLE: &str = "write, say:\n\n  [evaluate.holdout]\n  command = \"python eval.py {model}\"\n  \
                       data = \"/data/holdout\"\n  better = { auc = \"higher\", loss = \"lower\" }\n";
/// How long a command may take, in seconds, unless the settings say otherwise.
const TIMEOUT: u64 = 3600;

/// One set of data and how models are measured on it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// A shell command. `{model}` becomes the model's file, or its folder where it has several; `{folder}` its folder.
    pub command: String,
    /// The files or folders that are the set. They are hashed with a salt, and never leave.
    pub data: Paths,
    /// Which way each metric is better. What the command prints and is not listed here stays on this machine.
    pub better: BTreeMap<String, Direction>,
    /// The files that define the metrics; without it, the words of the command that are files.
    pub code: Option<Paths>,
    /// Seconds that the command may take for one model.
    #[serde(default = "timeout")]
    pub timeout: u64,
}

/// One path or several, below the working folder unless they are absolute.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Paths {
    /// One.
    One(PathBuf),
    /// Several.
    Several(Vec<PathBuf>),
}

/// Which way a metric is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// As an accuracy.
    Higher,
    /// As a loss.
    Lower,
}

impl From<Direction> for Better {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Higher => Self::Higher,
            Direction::Lower => Self::Lower,
        }
    }
}

impl Paths {
    /// All of them, below `root`.
    pub fn all(&self, root: &Path) -> Vec<PathBuf> {
        match self {
            Self::One(path) => vec![root.join(path)],
            Self::Several(paths) => paths.iter().map(|path| root.join(path)).collect(),
        }
    }
}

impl Settings {
    /// The files that define the metrics.
    pub fn code(&self, root: &Path) -> Vec<PathBuf> {
        if let Some(paths) = &self.code {
            return paths.all(root);
        }
        let words = self.command.split_whitespace().map(|word| word.trim_matches(['\'', '"']));
        words.map(|word| root.join(word)).filter(|path| path.is_file()).collect()
    }
}

fn timeout() -> u64 {
    TIMEOUT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Local {
    #[serde(default)]
    evaluate: BTreeMap<String, Settings>,
    #[serde(default)]
    privacy: Privacy,
}

/// What the folder asks of its own commits, beside what the home does.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Privacy {
    #[serde(default)]
    require: bool,
}

impl Local {
    fn read(root: &Path) -> Result<Self, Problem> {
        let path = root.join(MARK).join("config.toml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Problem::invalid(format!("{}: {error}", path.display()))),
        };
        toml::from_str(&text).map_err(|error| {
            Problem::invalid(format!("{}: {}", path.display(), error.to_string().trim_end())).help(EXAMPLE)
        })
    }
}

/// Whether the working folder at `root` refuses commits without differential privacy: `[privacy] require = true`.
///
/// # Errors
/// Settings that can't be read: then nothing is committed.
pub fn requires_privacy(root: &Path) -> Result<bool, Problem> {
    Ok(Local::read(root)?.privacy.require)
}

/// The set that `on` names in the settings of the working folder at `root`, or the only one.
///
/// # Errors
/// No such set, several and none named, a key that is not known.
pub fn load(root: &Path, on: Option<&str>) -> Result<(String, Settings), Problem> {
    let path = root.join(MARK).join("config.toml");
    let local = Local::read(root)?;
    let mut sets = local.evaluate;
    let names: Vec<String> = sets.keys().cloned().collect();
    let name = match (on, names.as_slice()) {
        (Some(name), _) => name.to_owned(),
        (None, [only]) => only.clone(),
        (None, []) => {
            return Err(Problem::invalid(format!(
                "{} says of no data that models can be evaluated on",
                path.display()
            ))
            .help(EXAMPLE));
        }
        (None, several) => {
            return Err(Problem::invalid(format!("there are {} sets of data", several.len()))
                .help(format!("choose with `--on`: {}", several.join(", "))));
        }
    };
    let settings = sets.remove(&name).ok_or_else(|| {
        let known =
            if names.is_empty() { EXAMPLE.to_owned() } else { format!("there are: {}", names.join(", ")) };
        Problem::missing(format!("{} has no [evaluate.{name}]", path.display())).help(known)
    })?;
    flair_protocol::operation::body::name(&name).map_err(|error| Problem::invalid(error.to_string()))?;
    if settings.better.is_empty() {
        return Err(
            Problem::invalid(format!("[evaluate.{name}] lists no metric under `better`")).help(EXAMPLE)
        );
    }
    Ok((name, settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str, on: Option<&str>) -> Result<(String, Settings), Problem> {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join(MARK)).unwrap();
        std::fs::write(top.path().join(MARK).join("config.toml"), text).unwrap();
        load(top.path(), on)
    }

    #[test]
    fn the_only_set_needs_no_name_and_several_do() {
        let one = "[evaluate.a]\ncommand = \"x\"\ndata = \"d\"\nbetter = { auc = \"higher\" }\n";
        let (name, settings) = with(one, None).unwrap();
        assert_eq!((name.as_str(), settings.timeout), ("a", TIMEOUT));
        assert_eq!(settings.data.all(Path::new("/w")), [Path::new("/w/d")]);
        let two = format!(
            "{one}\n[evaluate.b]\ncommand = \"x\"\ndata = [\"d\", \"/e\"]\nbetter = {{ loss = \"lower\" }}\n"
        );
        assert!(with(&two, None).unwrap_err().help.unwrap().contains("a, b"));
        let (name, settings) = with(&two, Some("b")).unwrap();
        assert_eq!(name, "b");
        assert_eq!(settings.data.all(Path::new("/w")), [Path::new("/w/d"), Path::new("/e")]);
        assert!(with(&two, Some("c")).unwrap_err().message.contains("[evaluate.c]"));
    }

    #[test]
    fn what_is_missing_or_mistyped_is_named_and_shown_how_to_write() {
        for (bad, named) in [
            ("", "no data"),
            ("[evaluate.a]\ncommand = \"x\"\n", "data"),
            ("[evaluate.a]\ncommand = \"x\"\ndata = \"d\"\nbetter = { auc = \"up\" }\n", "up"),
            ("[evaluate.a]\ncommand = \"x\"\ndata = \"d\"\nbetter = {}\n", "better"),
            ("[evaluate.a]\ncomand = \"x\"\n", "comand"),
        ] {
            let problem = with(bad, None).unwrap_err();
            assert!(problem.message.contains(named), "{}", problem.message);
            assert!(problem.help.unwrap().contains("[evaluate.holdout]"));
        }
    }

    #[test]
    fn the_code_is_what_the_command_names_unless_it_is_said() {
        let top = tempfile::tempdir().unwrap();
        std::fs::write(top.path().join("eval.py"), "1").unwrap();
        let text = "[evaluate.a]\ncommand = \"python 'eval.py' {model} none.py\"\ndata = \"d\"\nbetter = { auc = \"higher\" }\n";
        let (_, mut settings) = with(text, None).unwrap();
        assert_eq!(settings.code(top.path()), [top.path().join("eval.py")]);
        settings.code = Some(Paths::One("lib".into()));
        assert_eq!(settings.code(top.path()), [top.path().join("lib")]);
    }
}
