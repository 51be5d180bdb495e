//! `flair completions`

use clap::CommandFactory as _;
use flair_node::api::types::Problem;

/// Print completions for a shell
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair completions bash > ~/.local/share/bash-completion/completions/flair
  flair completions fish > ~/.config/fish/completions/flair.fish")]
pub(crate) struct Arguments {
    /// The shell
    shell: clap_complete::Shell,
}

impl Arguments {
    pub(super) fn run(&self) -> Result<(), Problem> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut crate::args::Arguments::command(), "flair", &mut text);
        crate::context::say(String::from_utf8_lossy(&text).trim_end())
    }
}
