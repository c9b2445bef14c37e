//! Requirements on an account for a new key.

/// Requirements on an account for a new key. By default both apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct IssuePolicy {
    /// Whether the plan must have keys.
    pub plan_gate: bool,
    /// Whether the plan's maximum of usable keys applies.
    pub cap: bool,
}

impl IssuePolicy {
    /// No requirement but that the account is enabled.
    pub const NONE: Self = Self {
        plan_gate: false,
        cap: false,
    };

    /// Lifts the maximum of usable keys.
    #[must_use]
    pub const fn without_cap(mut self) -> Self {
        self.cap = false;
        self
    }
}

impl Default for IssuePolicy {
    fn default() -> Self {
        Self {
            plan_gate: true,
            cap: true,
        }
    }
}
