//! TLS to Redis.

use std::process::Command;

use super::*;

const URL_VARIABLE: &str = "KEYS_TEST_REDIS_TLS_URL";

/// The limiter trusts the authorities of the system, which the environment names. So it runs in
/// another process, the test below.
#[test]
fn certificate_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("certificate"), certified.cert.pem()).unwrap();
    std::fs::write(path("key"), certified.signing_key.serialize_pem()).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("other"), other.cert.pem()).unwrap();

    let free = Redis::stopped().port().to_string();
    let _redis = Redis::start_with(&[
        "--tls-port",
        &free,
        "--tls-cert-file",
        &path("certificate"),
        "--tls-key-file",
        &path("key"),
        "--tls-auth-clients",
        "no",
    ]);
    let state_with = |authorities: &str, host: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tls::in_a_process_of_its_own"])
            .arg("--nocapture")
            .env("SSL_CERT_FILE", path(authorities))
            .env_remove("SSL_CERT_DIR")
            .env(URL_VARIABLE, format!("rediss://{host}:{free}"))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}");
        let state = said.split("state: ").nth(1).expect("it says the state");
        state.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(state_with("certificate", "localhost"), "shared");
    assert_eq!(state_with("other", "localhost"), "local", "of no authority");
    assert_eq!(
        state_with("certificate", "127.0.0.1"),
        "local",
        "of another"
    );
}

/// Runs in the other process of the test above. On its own it tests nothing, which the test above
/// would detect.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_process_of_its_own() {
    let Ok(url) = std::env::var(URL_VARIABLE) else {
        return;
    };
    let limiter = Builder::new(&url)
        .budget(Duration::from_secs(10))
        .connect()
        .await;
    // Long enough for a trial or two beyond the first.
    for _ in 0..100 {
        if limiter.state() == LimiterState::Shared {
            take(&limiter, "list", quota(1, 1)).await.unwrap();
            break;
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    println!("state: {} ", limiter.state().as_str());
}
