//! `sluice policy test`.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::{
    api::{client::Client, types::policy::VerifyRequest},
    cli::print,
    policy::{
        compile::{Compiled, Compiler, Endpoint, RuleNumbers, Settings},
        inquiry::{endpoints_of, flows, sites},
        model::Model,
        source::{Scan, scan_once},
        verify::{Expectation, Expected, read_expectations},
    },
};

/// Expectations sent in one request, below the agent's limit of its size.
const AT_ONCE: usize = 200;

/// Hold a list of expectations against policies.
///
/// The file is YAML, a list of expectations:
///
///   - {from: shop/web-0, to: shop/db-0, port: 5432/tcp, expect: allow}
///   - {from: 192.0.2.7, to: shop/db-0, port: 5432/tcp, expect: deny}
///
/// Each side is a pod or an address; `network: NAMESPACE/NAME` leaves only one
/// of several common networks. With --policy-dir no agent is needed, and every
/// pod of the folder is judged; without, the agent judges what its node has.
/// Exit code 1 if any expectation fails.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(in crate::cli) struct Test {
    /// The expectations
    file: PathBuf,
    /// Judge the policies of this folder, without an agent
    #[arg(long, value_name = "DIR")]
    policy_dir: Option<PathBuf>,
    /// As the agent's setting network_policy = "all"
    #[arg(long, requires = "policy_dir")]
    all_networks: bool,
}

impl Test {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let path = self.file.display();
        let text = std::fs::read_to_string(&self.file).with_context(|| format!("{path}"))?;
        let expectations =
            read_expectations(&text).map_err(|refused| anyhow::anyhow!("{path}: {refused}"))?;
        if expectations.is_empty() {
            bail!("{path}: it expects nothing; list what should be allowed and what not");
        }
        let list: Vec<_> = expectations.iter().map(|(_, one)| one.clone()).collect();
        let objections = match &self.policy_dir {
            Some(folder) => Bench::new(folder, self.all_networks)?.judge(&list),
            None => ask(client, list).await?,
        };
        report(&self.file, &expectations, &objections)
    }
}

async fn ask(
    client: &Client,
    expectations: Vec<Expectation>,
) -> anyhow::Result<Vec<Option<String>>> {
    let mut objections = Vec::new();
    for some in expectations.chunks(AT_ONCE) {
        let expectations = some.to_vec();
        objections.extend(client.verify(&VerifyRequest { expectations }).await?);
    }
    Ok(objections)
}

/// All pods of a folder as if they were on one node.
struct Bench {
    model: Model,
    endpoints: Vec<Endpoint>,
    compiled: Compiled,
}

impl Bench {
    fn new(folder: &Path, every_network: bool) -> anyhow::Result<Self> {
        let scan: Scan = scan_once(folder).with_context(|| format!("{}", folder.display()))?;
        let mut refused = scan.files.iter().filter_map(|file| {
            let refused = file.refused.as_ref()?;
            Some(format!("{}: {refused}", file.path.display()))
        });
        if let Some(refused) = refused.next() {
            bail!("{refused}");
        }
        let settings = Settings {
            every_network,
            ..Settings::default()
        };
        let model = scan.model;
        let endpoints = endpoints_of(&model);
        let mut compiler = Compiler::new(settings, RuleNumbers::default(), Default::default());
        let compiled = compiler.compile(&model, &endpoints, &[]);
        Ok(Self {
            model,
            endpoints,
            compiled,
        })
    }

    fn judge(&self, expectations: &[Expectation]) -> Vec<Option<String>> {
        expectations
            .iter()
            .map(|one| self.judge_one(one).unwrap_or_else(Some))
            .collect()
    }

    fn judge_one(&self, one: &Expectation) -> Result<Option<String>, String> {
        let from = sites(&one.from, &self.model, &self.endpoints)?;
        let to = sites(&one.to, &self.model, &self.endpoints)?;
        let (what, network) = (one.service()?, one.network()?);
        let Ok(flows) = flows(&self.compiled, &from, &to, &what, network.as_ref());
        Ok(one.objection(&flows))
    }
}

fn report(
    file: &Path,
    expectations: &[(usize, Expectation)],
    objections: &[Option<String>],
) -> anyhow::Result<()> {
    let mut failed = 0;
    let mut text = String::new();
    for ((line, one), objection) in expectations.iter().zip(objections) {
        let Some(objection) = objection else { continue };
        failed += 1;
        let expected = match one.expect {
            Expected::Allow => "allow",
            Expected::Deny => "deny",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}:{line}: {} -> {} {}: expected {expected}: {objection}",
            file.display(),
            one.from,
            one.to,
            one.port
        );
    }
    let total = expectations.len();
    if failed > 0 {
        // Who reads no further still learns of it, by the exit code.
        let _ = print(&text);
        bail!("{failed} of {total} expectations failed");
    }
    print(&format!("{total} expectations met\n"))
}
