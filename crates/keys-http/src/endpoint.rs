//! The routes of verification.

/// A route of verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Auth,
    Verify,
    VerifyBatch,
}

impl Endpoint {
    /// All routes, in the order of their numbers.
    pub(crate) const ALL: [Self; 3] = [Self::Auth, Self::Verify, Self::VerifyBatch];

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
}

const _: () = {
    let mut place = 0;
    while place < Endpoint::ALL.len() {
        assert!(Endpoint::ALL[place] as usize == place);
        place += 1;
    }
    assert!(Endpoint::ALL.len() == Endpoint::VerifyBatch as usize + 1);
};
