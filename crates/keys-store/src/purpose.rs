//! Purposes of connections, which decide how many of them may be used.

/// Purpose of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Verification and readiness. Must work even if everything else hangs.
    LookUp,
    /// Any other reading.
    Read,
    /// Changes.
    Write,
    /// Regular work that can wait: it opens no connection while there is an idle one.
    Housekeeping,
}
