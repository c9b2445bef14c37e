# Wrappers of `cargo xtask ..`, for those who have just.

# Lists the recipes.
default:
    @just --list

# Every check and every test, on throw-away servers.
test:
    cargo xtask test

# Checks the dependencies: unused ones, licences, sources, known vulnerabilities.
dependencies:
    cargo xtask dependencies

# Formats all code.
fmt:
    cargo xtask fmt

# Clippy with warnings as errors.
lint:
    cargo xtask lint

# Builds the documentation with warnings as errors.
docs:
    cargo xtask docs

# Prints how often some words come in comments and documents.
words:
    cargo xtask words

# Runs the benchmarks, or those whose names contain FILTER, and writes docs/benchmarks.md.
bench *FILTER:
    cargo xtask bench {{FILTER}}

# Runs the proofs in full, or those whose names contain FILTER, and writes docs/proofs.md.
prove *FILTER:
    cargo xtask prove {{FILTER}}
