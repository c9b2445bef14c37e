# Wrappers of `cargo xtask ..`, for those who have just.

# Lists the recipes.
default:
    @just --list

# Every check and every test, on throw-away servers.
test:
    cargo xtask test

# Formats all code.
fmt:
    cargo xtask fmt

# Clippy with warnings as errors.
lint:
    cargo xtask lint

# Builds the documentation with warnings as errors.
docs:
    cargo xtask docs

# Runs the benchmarks.
bench:
    cargo xtask bench
