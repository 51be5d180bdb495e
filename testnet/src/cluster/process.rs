//! Which process is meant: its id and when it started, since an id alone is given out again.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use sysinfo::{ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System};

use super::ClusterError;

/// How often a process that was told to end is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// One process, told apart from any later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// When it started, in seconds since 1970.
    pub started: u64,
}

impl Identity {
    /// The process that has this id now, if one runs.
    pub fn of(pid: u32) -> Option<Self> {
        let mut system = System::new();
        let id = sysinfo::Pid::from_u32(pid);
        let kind = ProcessRefreshKind::nothing();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[id]), true, kind);
        let process = system.process(id)?;
        // A zombie has ended; only its parent has not asked yet.
        let ended = matches!(process.status(), ProcessStatus::Zombie | ProcessStatus::Dead);
        (!ended).then(|| Self { pid, started: process.start_time() })
    }

    /// Whether this very process still runs.
    pub fn runs(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Asks the process to end (SIGTERM), and kills it when it has not within `patience`. Returns whether it ran;
    /// another process that has its id by now is left alone.
    ///
    /// # Errors
    /// When the process is not ours to signal.
    pub async fn end(&self, patience: Duration) -> Result<bool, ClusterError> {
        if !self.runs() {
            return Ok(false);
        }
        signal(self.pid, Signal::TERM)?;
        let asked = tokio::time::Instant::now();
        while self.runs() {
            if asked.elapsed() > patience {
                signal(self.pid, Signal::KILL)?;
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(true)
    }
}

/// Sends a signal; a process that has just ended is no error.
pub(super) fn signal(pid: u32, signal: Signal) -> Result<(), ClusterError> {
    // 0 and below would mean groups of processes.
    let Some(id) = i32::try_from(pid).ok().filter(|id| *id > 0).and_then(Pid::from_raw) else {
        return Ok(());
    };
    match kill_process(id, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(ClusterError::Signal { pid, source: error.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_very_process_is_ended() {
        let mut child = tokio::process::Command::new("sleep").arg("60").kill_on_drop(true).spawn().unwrap();
        let identity = Identity::of(child.id().unwrap()).unwrap();
        assert!(identity.runs());

        let earlier = Identity { started: identity.started - 1, ..identity };
        assert!(!earlier.runs());
        assert!(!earlier.end(Duration::from_secs(5)).await.unwrap());
        assert!(child.try_wait().unwrap().is_none(), "a namesake was ended");

        assert!(identity.end(Duration::from_secs(5)).await.unwrap());
        assert!(!child.wait().await.unwrap().success());
        assert!(!identity.end(Duration::from_secs(5)).await.unwrap());
    }
}
