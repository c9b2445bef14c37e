//! Keeps the memory of the process out of core dumps, because it holds keys and peppers.

/// Turns core dumps off. On Linux, other processes of the same user cannot attach to this one or
/// read its memory either.
///
/// A failure is not fatal, because it only keeps the default of the system.
pub(crate) fn turn_core_dumps_off() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        let _ = setrlimit(Resource::Core, none);
    }
    // The limit has no effect if dumps are piped to a collector, such as that of systemd.
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}
