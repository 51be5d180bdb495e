//! `flair man`

use std::path::PathBuf;

use clap::CommandFactory as _;
use flair_node::api::types::Problem;

use crate::context::Context;

/// Print the manual page, or write a page for each command
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair man | man -l -
  flair man --out ~/.local/share/man/man1")]
pub(crate) struct Arguments {
    /// A folder to write a page for each command into
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

impl Arguments {
    pub(super) fn run(&self, context: &Context) -> Result<(), Problem> {
        let command = crate::args::Arguments::command();
        if let Some(out) = &self.out {
            let out = context.absolute(out);
            return std::fs::create_dir_all(&out)
                .and_then(|()| clap_mangen::generate_to(command, &out))
                .map_err(|error| Problem::invalid(format!("{}: {error}", out.display())));
        }
        let mut text = Vec::new();
        clap_mangen::Man::new(command).render(&mut text).map_err(Problem::internal)?;
        crate::context::say(String::from_utf8_lossy(&text).trim_end())
    }
}
