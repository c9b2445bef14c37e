use std::collections::BTreeMap;
use std::num::NonZeroU32;

use anyhow::bail;
use keys_core::{Limit, LimitName, LimitPer, Operation, Plan, PlanName, Plans, Quota};
use serde::{Deserialize, Deserializer};

use super::single::{self, Name};

/// The plans of accounts.
#[derive(Debug, Deserialize)]
pub(crate) struct PlanSettings(BTreeMap<Name<PlanName>, PlanTable>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanTable {
    keys: bool,
    keys_max: u32,
    limits: BTreeMap<Name<LimitName>, LimitTable>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitTable {
    requests: NonZeroU32,
    period_seconds: NonZeroU32,
    #[serde(default, deserialize_with = "per")]
    per: LimitPer,
}

fn per<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LimitPer, D::Error> {
    let choices = [("account", LimitPer::Account), ("key", LimitPer::Key)];
    single::chosen(deserializer, choices)
}

impl PlanSettings {
    /// Checks that each plan has limits for managing keys, and that accounts share them.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        for (Name(plan), PlanTable { limits, .. }) in &self.0 {
            for operation in Operation::ALL.map(Operation::as_str) {
                let mut limits = limits.iter();
                let setting = format!("plans.{}.limits.{operation}", plan.as_str());
                match limits.find(|(Name(name), _)| name.as_str() == operation) {
                    None => bail!(
                        "setting `{setting}` is missing: \
                         set it to {{ requests = .., period_seconds = .. }}"
                    ),
                    Some((_, limit)) if limit.per == LimitPer::Key => {
                        bail!("setting `{setting}.per`: managing keys is counted per account")
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }
}

impl From<&PlanSettings> for Plans {
    fn from(settings: &PlanSettings) -> Self {
        let plans = settings.0.iter();
        Self::new(plans.map(|(Name(name), plan)| (name.clone(), plan.into())))
    }
}

impl From<&PlanTable> for Plan {
    fn from(plan: &PlanTable) -> Self {
        let limits = plan.limits.iter();
        Self {
            keys: plan.keys,
            keys_max: plan.keys_max,
            limits: limits
                .map(|(Name(name), limit)| (name.clone(), (*limit).into()))
                .collect(),
        }
    }
}

impl From<LimitTable> for Limit {
    fn from(limit: LimitTable) -> Self {
        Self {
            quota: Quota {
                requests: limit.requests,
                period_seconds: limit.period_seconds,
            },
            per: limit.per,
        }
    }
}
