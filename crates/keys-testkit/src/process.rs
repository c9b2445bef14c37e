//! Processes that must end with their parent.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

/// Ends a process, or a group of processes, when this process ends, even if it is killed.
///
/// A small shell waits for the end of a pipe that only this process holds. It sends SIGTERM to the
/// target, and SIGKILL five seconds later. Dropping the watch does the same, and does not wait.
#[derive(Debug)]
#[must_use = "the watch ends when it is dropped, and ends the target"]
pub struct Watch(Child);

impl Watch {
    /// Watches over one process.
    ///
    /// # Errors
    /// If no shell can be started.
    pub fn over_process(id: u32) -> std::io::Result<Self> {
        Self::over(&id.to_string())
    }

    /// Watches over all processes of a group.
    ///
    /// # Errors
    /// If no shell can be started.
    pub fn over_group(id: u32) -> std::io::Result<Self> {
        Self::over(&format!("-{id}"))
    }

    fn over(target: &str) -> std::io::Result<Self> {
        const SCRIPT: &str = r#"
            trap '' HUP INT TERM PIPE
            # A line says that there is nothing to watch any more; the end without a line, that the watched-for is gone.
            if read -r _; then exit 0; fi
            kill -s TERM -- "$1" || exit 0
            tries=50
            while [ $tries -gt 0 ] && kill -s 0 -- "$1"; do
                sleep 0.1
                tries=$((tries - 1))
            done
            kill -s KILL -- "$1"
        "#;
        Command::new("sh")
            .args(["-c", SCRIPT, "watch", target])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            // A signal to the group of this process must not end the watch too.
            .process_group(0)
            .spawn()
            .map(Self)
    }

    /// Ends the watch and leaves the target alone. Call it when the target has ended, because its
    /// number may be reused.
    pub fn disarm(mut self) {
        if let Some(mut stdin) = self.0.stdin.take() {
            let _ = stdin.write_all(b"done\n");
        }
        let _ = self.0.wait();
    }
}

/// Sends a signal, such as `TERM`, to a process.
pub fn signal(name: &str, id: u32) {
    // The shell has `kill` built in, also on systems without such a program.
    let _ = Command::new("sh")
        .args([
            "-c",
            "kill -s \"$1\" -- \"$2\"",
            "signal",
            name,
            &id.to_string(),
        ])
        .stderr(Stdio::null())
        .status();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep")
            .arg("600")
            .process_group(0)
            .spawn()
            .unwrap()
    }

    #[test]
    fn dropped_watch_ends_its_process() {
        let mut child = sleeper();
        drop(Watch::over_process(child.id()).unwrap());
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn dropped_watch_ends_a_whole_group() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 600 & echo started; wait"])
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut stdout = shell.stdout.take().unwrap();
        drop(Watch::over_group(shell.id()).unwrap());
        shell.wait().unwrap();
        // The pipe ends with its last holder, which is the sleeper.
        std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    }

    #[test]
    fn disarmed_watch_leaves_its_process_alone() {
        let mut child = sleeper();
        Watch::over_process(child.id()).unwrap().disarm();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
