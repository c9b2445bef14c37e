//! The routes of verification.

/// A route of verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Auth,
    Verify,
    VerifyBatch,
}

impl Endpoint {
    /// In the order in which they are tried, which is that of their numbers.
    pub(crate) const ALL: [Self; 3] = [Self::Auth, Self::Verify, Self::VerifyBatch];

    /// Returns its index in [`ALL`](Self::ALL).
    pub(crate) const fn number(self) -> usize {
        self as usize
    }

    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Auth => "/v1/auth",
            Self::Verify => "/v1/keys/verify",
            Self::VerifyBatch => "/v1/keys/verify-batch",
        }
    }

    /// Returns the route with this path, byte for byte.
    pub(crate) fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.path() == path)
    }

    /// Returns its only method, if there is one.
    pub(super) const fn allow(self) -> Option<&'static str> {
        match self {
            Self::Auth => None,
            Self::Verify | Self::VerifyBatch => Some("POST"),
        }
    }
}

const _: () = {
    let mut place = 0;
    while place < Endpoint::ALL.len() {
        assert!(Endpoint::ALL[place].number() == place);
        place += 1;
    }
    assert!(Endpoint::ALL.len() == Endpoint::VerifyBatch.number() + 1);
};
