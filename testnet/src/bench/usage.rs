//! What processes use: CPU seconds and peak memory, of nodes that run on and of commands that end.

use std::fs;
use std::ops::Add;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use wait4::Wait4 as _;

use super::BenchError;
use crate::cluster::{ClusterError, Flair, Node};

/// Writing this to `/proc/<pid>/clear_refs` sets the peak back to what is in use now (proc(5)).
const RESET_PEAK: &str = "5";

/// What a process used during a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Used {
    /// CPU seconds of all its threads, in user and kernel mode; nodes are counted in hundredths.
    pub cpu: f64,
    /// Most resident memory at any moment, in bytes.
    pub peak: u64,
}

impl Add for Used {
    type Output = Self;

    /// Two processes or commands one after the other.
    fn add(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, peak: self.peak.max(other.peak) }
    }
}

/// Watches a running node from its creation to [`used`](Self::used).
#[derive(Debug)]
pub(super) struct Meter {
    pid: u32,
    cpu: Duration,
}

impl Meter {
    pub(super) fn start(node: &Node) -> Result<Self, BenchError> {
        let pid = node.pid().ok_or_else(|| BenchError::broken(format!("{} does not run", node.name())))?;
        let path = format!("/proc/{pid}/clear_refs");
        fs::write(&path, RESET_PEAK).map_err(BenchError::io(path))?;
        Ok(Self { pid, cpu: cpu(pid)? })
    }

    pub(super) fn used(&self) -> Result<Used, BenchError> {
        let cpu = cpu(self.pid)?.saturating_sub(self.cpu).as_secs_f64();
        Ok(Used { cpu, peak: peak(self.pid)? })
    }
}

fn cpu(pid: u32) -> Result<Duration, BenchError> {
    let mut system = System::new();
    let id = Pid::from_u32(pid);
    system.refresh_processes_specifics(
        ProcessesToUpdate::Some(&[id]),
        true,
        ProcessRefreshKind::nothing().with_cpu(),
    );
    let process = system.process(id).ok_or_else(|| BenchError::broken(format!("process {pid} ended")))?;
    Ok(Duration::from_millis(process.accumulated_cpu_time()))
}

fn peak(pid: u32) -> Result<u64, BenchError> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(BenchError::io(&path))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let kib: Option<u64> = kib.and_then(|kib| kib.trim().parse().ok());
    Ok(kib.ok_or_else(|| BenchError::broken(format!("{path} tells no peak")))? << 10)
}

/// A command that ended well.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// What it printed.
    pub(super) stdout: String,
    /// Seconds it took.
    pub(super) wall: f64,
    /// What it used itself; what it had a node do is the node's.
    pub(super) used: Used,
}

/// Runs `flair` to its end and measures it.
pub(super) async fn command(flair: &Flair, arguments: &[&str]) -> Result<Ended, BenchError> {
    let said = format!("flair {}", arguments.join(" "));
    let mut command = flair.command(arguments).into_std();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended =
        tokio::task::spawn_blocking(move || measured(&mut command)).await.map_err(BenchError::broken)?;
    let (output, wall, used) = ended.map_err(BenchError::io(&said))?;
    if !output.status.success() {
        return Err(BenchError::Cluster(ClusterError::Failed {
            command: said,
            code: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }));
    }
    Ok(Ended { stdout: String::from_utf8_lossy(&output.stdout).into_owned(), wall, used })
}

/// Not tokio's `Command`: whoever asks first how a process ended is the only one who learns what it used.
fn measured(command: &mut Command) -> std::io::Result<(Output, f64, Used)> {
    use std::io::Read as _;
    let begun = Instant::now();
    let mut child = command.spawn()?;
    // What a command says fits into a pipe's buffer, so one after the other does.
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    if let Some(pipe) = &mut child.stdout {
        pipe.read_to_end(&mut stdout)?;
    }
    if let Some(pipe) = &mut child.stderr {
        pipe.read_to_end(&mut stderr)?;
    }
    let ended = child.wait4()?;
    let wall = begun.elapsed().as_secs_f64();
    let cpu = (ended.rusage.utime + ended.rusage.stime).as_secs_f64();
    let output = Output { status: ended.status, stdout, stderr };
    Ok((output, wall, Used { cpu, peak: ended.rusage.maxrss }))
}

/// Bytes that a folder takes on disk.
pub(super) fn disk(folder: &Path) -> Result<u64, BenchError> {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(BenchError::io(folder.display()))? {
        let entry = entry.map_err(BenchError::io(folder.display()))?;
        // A file of a running node may be gone by now.
        let Ok(about) = entry.metadata() else { continue };
        bytes += if about.is_dir() { disk(&entry.path())? } else { about.blocks() * 512 };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_charged_with_the_memory_and_time_it_takes() {
        let mut idle = Command::new("true");
        let mut busy = Command::new("sh");
        // 64 MiB in a shell's variable, and a loop.
        busy.args([
            "-c",
            "x=$(head -c 67108864 /dev/zero | tr '\\0' a); i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done",
        ]);
        let (_, _, idle) = measured(idle.stdout(Stdio::piped())).unwrap();
        let (output, wall, busy) = measured(busy.stdout(Stdio::piped())).unwrap();
        assert!(output.status.success());
        assert!(busy.peak > idle.peak + (60 << 20), "{busy:?} {idle:?}");
        assert!(busy.cpu > 0.05 && busy.cpu > idle.cpu, "{busy:?} {idle:?}");
        assert!(wall > 0.05);
    }
}
