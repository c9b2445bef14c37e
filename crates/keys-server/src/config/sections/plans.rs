use anyhow::bail;
use keys_core::{LimitPer, Operation, Plans};

/// Checks that each plan has limits for managing keys, and that accounts share them.
pub(crate) fn check(plans: &Plans) -> anyhow::Result<()> {
    for (name, plan) in plans.iter() {
        for operation in Operation::ALL.map(Operation::as_str) {
            let setting = format!("plans.{name}.limits.{operation}");
            match plan.limits.get(operation) {
                None => bail!(
                    "setting `{setting}` is missing: \
                     set it to {{ requests = .., period_seconds = .. }}"
                ),
                Some(limit) if limit.per == LimitPer::Key => {
                    bail!("setting `{setting}.per`: managing keys is counted per account")
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}
