//! Runs a story: Markdown with blocks that are typed and compared.
//!
//! ````text
//! ```console ana            commands of ana; `$` starts one, what it prints follows, `[exit 4]` if it fails
//! ```console ben network    the same with everybody's node running
//! ```sync                   everybody's node runs until all have the same
//! ````
//!
//! `make-model FILE [ROWS]` and `train FILE STEP` stand for the person's own script; all else is run by a shell.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use flair_tensors::dtype::DType;
use flair_tensors::header::Header;
use tempfile::TempDir;

use crate::nodes::Nodes;
use crate::pattern::{Names, fits, name};

struct Story {
    top: TempDir,
    names: Names,
    homes: BTreeMap<String, PathBuf>,
    folders: BTreeMap<String, PathBuf>,
    nodes: Nodes,
    /// Whether nodes run all the time.
    running: bool,
    /// What did not go as told.
    wrong: Vec<String>,
}

struct Block {
    words: Vec<String>,
    lines: Vec<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(words), None) => {
                let words = words.split_whitespace().map(Into::into).collect();
                open = Some(Block { words, lines: Vec::new() });
            }
            (None, Some(block)) => block.lines.push(line.into()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "the last block is not closed");
    blocks
}

impl Story {
    async fn tell(text: &str, running: bool) {
        let blocks = blocks(text);
        let mut story = Self {
            top: TempDir::new().unwrap(),
            names: Names::new(),
            homes: BTreeMap::new(),
            folders: BTreeMap::new(),
            nodes: Nodes::default(),
            running,
            wrong: Vec::new(),
        };
        for block in &blocks {
            if let [kind, person, ..] = block.words.as_slice()
                && kind == "console"
                && !story.homes.contains_key(person)
            {
                let folder = story.top.path().join(person);
                std::fs::create_dir(&folder).unwrap();
                story.homes.insert(person.clone(), folder.join("home"));
                story.folders.insert(person.clone(), folder);
            }
        }
        if running {
            story.nodes.start(&story.homes).await;
        }
        for block in blocks {
            let network = block.words.iter().any(|word| word == "network" || word == "sync");
            if network {
                story.nodes.start(&story.homes).await;
            } else if !running {
                story.nodes.stop().await;
            }
            match block.words.first().map(String::as_str) {
                Some("console") => story.console(&block).await,
                Some("sync") => story.nodes.settle().await,
                _ => {}
            }
        }
        story.nodes.stop().await;
        assert!(story.wrong.is_empty(), "{}", story.wrong.join("\n\n"));
    }

    async fn console(&mut self, block: &Block) {
        let person = block.words[1].clone();
        let mut lines = block.lines.iter().peekable();
        while let Some(line) = lines.next() {
            let command = line.strip_prefix("$ ").unwrap_or_else(|| panic!("no command before: {line}"));
            let mut expected = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with("$ ")) {
                expected.push(line.trim_end());
            }
            let filled = self.fill(command);
            let printed = self.run(&person, &filled).await;
            let actual: Vec<&str> = printed.lines().map(str::trim_end).collect();
            if !fits(&expected, &actual, &mut self.names) {
                let mode = if self.running { "with nodes" } else { "without nodes" };
                self.wrong.push(format!(
                    "{mode}, {person}$ {filled}\nexpected:\n{}\nprinted:\n{}",
                    expected.join("\n"),
                    actual.join("\n")
                ));
            }
        }
    }

    /// Puts words that are known by a name into a command.
    fn fill(&self, command: &str) -> String {
        let mut filled = String::new();
        let mut rest = command;
        while let Some(at) = rest.find('<') {
            filled.push_str(&rest[..at]);
            rest = &rest[at..];
            let known = name(rest).and_then(|(name, after)| Some((self.names.get(name)?, after)));
            let (word, after) = known.map_or(("<", &rest[1..]), |(word, after)| (word.as_str(), after));
            filled.push_str(word);
            rest = after;
        }
        filled + rest
    }

    async fn run(&mut self, person: &str, command: &str) -> String {
        let folder = self.folders[person].clone();
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            ["cd", to] => {
                self.folders.insert(person.into(), folder.join(to));
                return String::new();
            }
            ["make-model", file] => {
                make_model(&folder.join(file), 16);
                return String::new();
            }
            ["make-model", file, rows] => {
                make_model(&folder.join(file), rows.parse().unwrap());
                return String::new();
            }
            ["train", file, step] => {
                train(&folder.join(file), step.parse().unwrap());
                return String::new();
            }
            _ => {}
        }
        let program = Path::new(env!("CARGO_BIN_EXE_flair"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = program.parent().map(Path::to_path_buf).into_iter().chain(std::env::split_paths(&path));
        let output = tokio::process::Command::new("sh")
            .args(["-c", command])
            .current_dir(&folder)
            .env("PATH", std::env::join_paths(paths).unwrap())
            .env("FLAIR_HOME", &self.homes[person])
            .env("USER", person)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let mut text = String::from_utf8(output.stdout).unwrap();
        text.push_str(&String::from_utf8(output.stderr).unwrap());
        if !output.status.success() {
            writeln!(text, "[exit {}]", output.status.code().unwrap_or(-1)).unwrap();
        }
        text
    }
}

/// Writes a small network with a batch-norm and a layer of so many rows.
fn make_model(path: &Path, rows_of_layer: u64) {
    let norm: &[u64] = &[8];
    let rows = [
        ("bn.num_batches_tracked", DType::I64, &[][..]),
        ("bn.running_mean", DType::F32, norm),
        ("bn.running_var", DType::F32, norm),
        ("fc.bias", DType::F32, norm),
        ("fc.weight", DType::F32, &[rows_of_layer, 8]),
    ];
    let rows = rows.iter().map(|(name, dtype, shape)| (*name, *dtype, *shape));
    let mut bytes = Header::build(rows, &BTreeMap::new()).unwrap();
    bytes.extend_from_slice(&7i64.to_le_bytes());
    for index in 0..8 * 3 + rows_of_layer * 8 {
        bytes.extend_from_slice(&(1.0 + (index as f32 * 0.37).sin() / 2.0).to_le_bytes());
    }
    std::fs::write(path, bytes).unwrap();
}

/// Moves every number of the model by a step.
fn train(path: &Path, step: f32) {
    let mut bytes = std::fs::read(path).unwrap();
    let start = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap() + 8;
    for chunk in bytes[start..].as_chunks_mut::<4>().0 {
        *chunk = (f32::from_le_bytes(*chunk) + step).to_le_bytes();
    }
    std::fs::write(path, bytes).unwrap();
}

macro_rules! stories {
    ($($name:ident)*) => {$(
        mod $name {
            const TEXT: &str = include_str!(concat!("../stories/", stringify!($name), ".md"));

            #[tokio::test(flavor = "multi_thread")]
            async fn with_nodes() {
                super::Story::tell(TEXT, true).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn without_nodes() {
                super::Story::tell(TEXT, false).await;
            }
        }
    )*};
}

stories!(alone decisions hospitals merging privacy private together);

/// There is no network in it.
#[tokio::test(flavor = "multi_thread")]
async fn airgap_without_nodes() {
    Story::tell(include_str!("../stories/airgap.md"), false).await;
}
