//! What happens while a command waits: a bar on terminals, lines with `--verbose`.

use std::io::IsTerminal as _;
use std::time::Duration;

use flair_node::api::Client;
use flair_node::api::types::Event;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use crate::context::Context;

/// Quick answers show no bar.
const QUIET: Duration = Duration::from_millis(400);

/// Follows events until it is finished.
pub(crate) struct Progress(Option<JoinHandle<()>>);

impl Progress {
    /// Starts to follow, where there is somebody to see it.
    pub(crate) async fn start(client: &Client, context: &Context) -> Self {
        let bar = std::io::stderr().is_terminal() && !context.quiet;
        if !bar && !context.verbose {
            return Self(None);
        }
        let verbose = context.verbose;
        let Ok(mut events) = client.events().await else { return Self(None) };
        Self(Some(tokio::spawn(async move {
            let shown = if bar { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
            let _clear = Clear(shown.clone());
            let start = tokio::time::Instant::now();
            while let Some(event) = events.next().await {
                if verbose {
                    shown.suspend(|| tell(&event));
                }
                if start.elapsed() > QUIET {
                    draw(&shown, event);
                }
            }
        })))
    }

    /// Stops to follow and leaves no trace.
    pub(crate) async fn finish(self) {
        if let Some(task) = self.0 {
            task.abort();
            let _ = task.await;
        }
    }
}

/// Takes the bar off the screen however the task ends.
struct Clear(ProgressBar);

impl Drop for Clear {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn tell(event: &Event) {
    #[allow(clippy::print_stderr)] // This is where the command speaks.
    {
        anstream::eprintln!("{}: {}", event.kind, event.text);
    }
}

fn draw(bar: &ProgressBar, event: Event) {
    let template = match (event.done, event.total) {
        (Some(done), Some(total)) if total > 0 => {
            bar.set_length(total);
            bar.set_position(done);
            "{bar:30} {percent:>3}% {wide_msg}"
        }
        _ => "{spinner} {wide_msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(event.text);
    bar.tick();
}
