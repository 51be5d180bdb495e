//! `flair new`

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use flair_node::api::types::{Done, Problem};

use crate::context::Context;

/// What can be written.
struct Example {
    name: &'static str,
    what: &'static str,
    /// Names and contents.
    files: &'static [(&'static str, &'static str)],
}

const EXAMPLES: [Example; 1] = [Example {
    name: "pytorch",
    what: "a script that trains a small network on digits that it draws itself, and shares what it learned",
    files: &[
        ("train.py", include_str!("../../examples/pytorch/train.py")),
        ("README.md", include_str!("../../examples/pytorch/README.md")),
    ],
}];

/// Write an example that runs as it is, to begin from
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair new --example pytorch
  flair new --example pytorch digits && cd digits && python train.py

Known examples:
  pytorch    a script that trains a small network on digits that it draws itself")]
pub(crate) struct Arguments {
    /// Which one
    #[arg(long, value_name = "NAME")]
    example: String,
    /// The folder to write it to [default: a new one of the example's name]
    folder: Option<PathBuf>,
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<(), Problem> {
        let Some(Example { name, what, files }) = EXAMPLES.iter().find(|known| known.name == self.example)
        else {
            let known: Vec<&str> = EXAMPLES.iter().map(|known| known.name).collect();
            return Err(Problem::missing(format!("there is no example `{}`", self.example))
                .help(format!("known examples: {}", known.join(", "))));
        };
        let folder = context.absolute(&self.folder.unwrap_or_else(|| PathBuf::from(name)));
        let wrong =
            |path: &PathBuf, error: std::io::Error| Problem::invalid(format!("{}: {error}", path.display()));
        if let Some((taken, _)) = files.iter().find(|(file, _)| folder.join(file).symlink_metadata().is_ok())
        {
            return Err(Problem::conflict(format!("{} exists already", folder.join(taken).display()))
                .help("name another folder: nothing was written"));
        }
        fs::create_dir_all(&folder).map_err(|error| wrong(&folder, error))?;
        let mut words = vec![format!("wrote {what}:")];
        for (file, text) in *files {
            let path = folder.join(file);
            let written = fs::File::create_new(&path).and_then(|mut file| file.write_all(text.as_bytes()));
            written.map_err(|error| wrong(&path, error))?;
            words.push(format!("  {}", path.display()));
        }
        words.push("README.md tells how to run it".to_owned());
        context.done(&Done { words })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use flair_node::api::types::Code;

    use super::*;
    use crate::args::{self, Command};

    fn new(top: &std::path::Path, words: &[&str]) -> Result<(), Problem> {
        let place = top.to_string_lossy().into_owned();
        let typed =
            ["flair", "--quiet", "-C", &place, "new", "--example"].into_iter().chain(words.iter().copied());
        let arguments = args::Arguments::parse_from(typed);
        let context = Context::new(&arguments)?;
        match arguments.command {
            Command::New(arguments) => arguments.run(&context),
            _ => Err(Problem::internal("another command")),
        }
    }

    #[test]
    fn an_example_is_written_whole_and_over_nothing() {
        let top = tempfile::tempdir().unwrap();
        new(top.path(), &["pytorch"]).unwrap();
        for (name, text) in EXAMPLES[0].files {
            assert_eq!(fs::read_to_string(top.path().join("pytorch").join(name)).unwrap(), *text);
        }
        let taken = new(top.path(), &["pytorch"]).unwrap_err();
        assert_eq!(taken.code, Code::Conflict, "{taken}");
        // A link to nowhere is somebody's too.
        std::os::unix::fs::symlink("nowhere", top.path().join("README.md")).unwrap();
        assert_eq!(new(top.path(), &["pytorch", "."]).unwrap_err().code, Code::Conflict);
        assert!(!top.path().join("train.py").exists(), "nothing was written");
        let unknown = new(top.path(), &["tensorflow"]).unwrap_err();
        assert!(unknown.help.unwrap().contains("pytorch"));
    }
}
