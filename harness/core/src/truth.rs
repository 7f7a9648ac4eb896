//! The truth table: what every place sees at every destination, observed and compared with the model in one
//! call.
//!
//! Its rows are the [`Ask`]s that follow from the objects of the scene's namespace, its columns are the
//! standing vantages and back ends that can call; the first rows are the controls, and a place whose
//! controls fail tells nothing.

pub(crate) mod address;
pub(crate) mod cell;
mod rows;
mod taking;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::core::v1::Secret;
use stickler_model::{Destination, ObjectKey, Route, World, route};
use stickler_reports::{CellReport, CellVerdict, ColumnReport, RowReport, TableReport};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::Scene;
use crate::calls::http;
use crate::cluster::Capability;
use crate::destination::nodes;
use crate::ingress::{self, Promised};
use crate::names::resolve_as_promised;
use crate::scene::look_again;
use crate::vantage::Vantage;
use address::{Known, addresses, cluster_dns, hairpins};
use cell::{CALLS, Cell};
use rows::{Ask, Form, Row};

pub use taking::{Taking, given_manifests};

/// How many cells in which somebody is to answer are looked at together: more would only wait for each other,
/// and on a busy machine for longer than a call may take.
const AT_ONCE: usize = 96;

/// Long enough for a kernel that refuses one caller once a second to refuse: the call is repeated after
/// a second, and then it is told.
const UNTIL_REFUSED: Duration = Duration::from_millis(2500);

/// The destinations of a scene, those included that are gone by now.
#[derive(Debug, Default)]
pub struct Truth {
    services: BTreeMap<Destination, Known>,
    /// What must answer each place without any service, and what must not.
    controls: BTreeMap<Vantage, Result<(SocketAddr, SocketAddr), String>>,
    remarks: BTreeSet<String>,
}

impl Scene {
    /// Takes the truth table of the scene's namespace as it is now: every standing place and every back end
    /// that can call, against every address, name, path and unused port there is.
    ///
    /// # Errors
    /// If the objects cannot be listed. What a place cannot tell stands in the table.
    pub async fn truth_table(&self) -> anyhow::Result<TableReport> {
        Truth::default().take(self).await
    }
}

/// A table before it is looked at.
struct Grid {
    world: World,
    columns: Vec<Vantage>,
    rows: Vec<Row>,
    secrets: Vec<Secret>,
}

impl Grid {
    /// All cells, by their places.
    fn places(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let columns = self.columns.len();
        (0..self.rows.len()).flat_map(move |row| (0..columns).map(move |column| (row, column)))
    }

    fn place(&self, (row, column): (usize, usize)) -> Place {
        (self.rows[row].ask.clone(), self.columns[column].clone())
    }
}

/// A cell, by what is asked and from where: rows may come and go.
type Place = (Ask, Vantage);

/// A cell that was looked at, and where it stands.
struct Looked {
    row: usize,
    column: usize,
    cell: Cell,
}

/// When a cell is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Somebody is to answer.
    Answered,
    /// Somebody is to refuse. First of all, since kernels refuse one caller a few times only.
    Refused,
    /// Nobody is to answer: it takes as long as it is listened.
    Silent,
}

impl Truth {
    /// Remembers the destinations there are now: whatever of them is gone when the table is taken, is in it as
    /// removed.
    ///
    /// # Errors
    /// If the objects cannot be listed.
    pub async fn learn(&mut self, scene: &Scene) -> anyhow::Result<()> {
        let world = scene.whole_world().await?;
        self.learn_of(scene, &world);
        Ok(())
    }

    fn learn_of(&mut self, scene: &Scene, world: &World) {
        for (key, service) in world.services.iter().filter(|(key, _)| key.namespace == scene.namespace()) {
            self.services.extend(addresses(world, key, service));
        }
    }

    /// Says something beneath the table.
    pub fn remark(&mut self, remark: impl Into<String>) {
        self.remarks.insert(remark.into());
    }

    /// Waits until nothing differs of these cells, or, if none are given, of those in which somebody is to
    /// answer; or until this moment. Only what differed is looked at again. Refusals are not asked for more
    /// often than need be, since kernels have a few only.
    ///
    /// # Errors
    /// If the objects cannot be listed.
    async fn follow(
        &mut self,
        scene: &Scene,
        mut open: Option<BTreeSet<Place>>,
        deadline: Instant,
    ) -> anyhow::Result<()> {
        loop {
            let began = Instant::now();
            let grid = self.grid(scene).await?;
            let places: Vec<(usize, usize)> = match &open {
                Some(open) => grid.places().filter(|place| open.contains(&grid.place(*place))).collect(),
                None => grid
                    .places()
                    .filter(|place| self.cell(scene, &grid, *place).0 == Turn::Answered)
                    .collect(),
            };
            let looked = self.look(scene, &grid, places).await;
            let differs = |looked: &&Looked| looked.cell.verdict >= CellVerdict::CouldNotTell;
            let differing: BTreeSet<_> =
                looked.iter().filter(differs).map(|looked| grid.place((looked.row, looked.column))).collect();
            let balanced = scene.unbalanced(&grid.world).is_none();
            if (differing.is_empty() && balanced) || began >= deadline {
                return Ok(());
            }
            scene.is_waiting_for(&format!("the cluster to follow: {} cells differ", differing.len()));
            // What a load balancer will add is not known yet.
            open = balanced.then_some(differing);
            look_again().await;
        }
    }

    /// Takes the table as it is now.
    ///
    /// # Errors
    /// If the objects cannot be listed. What a place cannot tell stands in the table.
    pub async fn take(&mut self, scene: &Scene) -> anyhow::Result<TableReport> {
        Ok(self.look_at_all(scene).await?.0)
    }

    /// Takes the table, and says which cells differ or could not be told.
    async fn look_at_all(&mut self, scene: &Scene) -> anyhow::Result<(TableReport, BTreeSet<Place>)> {
        // Agents may be starting, and back ends are attached to when they are first asked.
        self.grid(scene).await?;
        let began = Instant::now();
        let grid = self.grid(scene).await?;
        let places = grid.places().collect();
        let mut looked = self.look(scene, &grid, places).await;
        self.refused_again(scene, &grid, &mut looked).await;
        let duration = began.elapsed();
        let differs = |looked: &&Looked| looked.cell.verdict >= CellVerdict::CouldNotTell;
        let open =
            looked.iter().filter(differs).map(|looked| grid.place((looked.row, looked.column))).collect();
        Ok((self.report(scene, &grid, looked, duration), open))
    }

    /// What there is to look at, from places whose controls are known.
    async fn grid(&mut self, scene: &Scene) -> anyhow::Result<Grid> {
        let world = scene.whole_world().await?;
        self.learn_of(scene, &world);
        let mut columns = scene.vantages().everywhere();
        columns.extend(hairpins(&world, scene.namespace(), None));
        let unknown = columns.iter().filter(|column| !self.controls.contains_key(column));
        let controls = unknown.map(|column| async move {
            let control = async {
                scene.control(std::slice::from_ref(column)).await?;
                scene.control_targets(column).await
            };
            (column.clone(), control.await.map_err(|error| format!("{error:#}")))
        });
        let controls = join_all(controls).await;
        self.controls.extend(controls);
        let rows = rows::rows(scene, &world, &self.services);
        let secrets = match rows.iter().any(|row| matches!(&row.ask, Ask::Request(request) if request.tls)) {
            true => ingress::secrets(scene).await?,
            false => Vec::new(),
        };
        Ok(Grid { world, columns, rows, secrets })
    }

    /// Looks at some cells of a grid: at all of them at once where nobody is to answer, and else at as many
    /// as the machine can.
    async fn look(&self, scene: &Scene, grid: &Grid, places: Vec<(usize, usize)>) -> Vec<Looked> {
        let slots = Semaphore::new(AT_ONCE);
        let mut answered = Vec::new();
        let mut others: BTreeMap<usize, (Vec<_>, Vec<_>)> = BTreeMap::new();
        for (row, column) in places {
            let (turn, looking) = self.cell(scene, grid, (row, column));
            let looking = looking.map(move |cell| Looked { row, column, cell });
            match turn {
                Turn::Answered => answered.push(async {
                    // Nobody closes it.
                    let _slot = slots.acquire().await;
                    looking.await
                }),
                Turn::Refused => others.entry(column).or_default().0.push(looking),
                Turn::Silent => others.entry(column).or_default().1.push(looking),
            }
        }
        let others = others.into_values().map(|(refused, silent)| async {
            let mut looked = join_all(refused).await;
            looked.extend(join_all(silent).await);
            looked
        });
        let (mut looked, others) = tokio::join!(join_all(answered), join_all(others));
        looked.extend(others.into_iter().flatten());
        looked
    }

    /// Asks once more, one after the other, where nobody told that a call is refused.
    async fn refused_again(&self, scene: &Scene, grid: &Grid, looked: &mut [Looked]) {
        let mut again: BTreeMap<usize, Vec<&mut Looked>> = BTreeMap::new();
        for looked in looked.iter_mut().filter(|looked| looked.cell.refusal_is_missing) {
            again.entry(looked.column).or_default().push(looked);
        }
        let again = again.into_values().map(|looked| async {
            for looked in looked {
                let (from, row) = (&grid.columns[looked.column], &grid.rows[looked.row]);
                let Ask::Address(to) = row.ask else { continue };
                let route = promised_route(scene, &grid.world, from, to);
                looked.cell = told(cell::call(scene, from, &row.target(), &route, 1, UNTIL_REFUSED).await);
            }
        });
        join_all(again).await;
    }

    /// One cell, and when it is its turn.
    fn cell<'a>(
        &'a self,
        scene: &'a Scene,
        grid: &'a Grid,
        (row, column): (usize, usize),
    ) -> (Turn, BoxFuture<'a, Cell>) {
        let (from, row) = (&grid.columns[column], &grid.rows[row]);
        if let Some(Err(why)) = self.controls.get(from) {
            let cell = Cell::could_not_tell(String::new(), why.clone());
            return (Turn::Answered, async { cell }.boxed());
        }
        let not_asked = |why: &str| {
            let cell = Cell { verdict: CellVerdict::NotAsked, ..Cell::not_promised(why.to_owned()) };
            (Turn::Answered, async { cell }.boxed())
        };
        match &row.ask {
            Ask::Control { open } => {
                let target = self.controls.get(from).and_then(|control| control.as_ref().ok());
                let Some((answers, closed)) = target else { return not_asked("it has no control") };
                let to = if *open { *answers } else { *closed };
                (Turn::Answered, control(scene, from, to, *open).boxed())
            }
            Ask::Address(to) => {
                match scene.vantages().may_call(from, to.address) {
                    Ok(false) => return not_asked("from there, nodes are called and nobody else"),
                    Ok(true) => {}
                    Err(error) => {
                        let cell = Cell::could_not_tell(String::new(), format!("{error:#}"));
                        return (Turn::Answered, async { cell }.boxed());
                    }
                }
                let route = promised_route(scene, &grid.world, from, *to);
                let turn = match &route {
                    Route::Answered { .. } | Route::NotPromised { .. } => Turn::Answered,
                    Route::Refused { .. } => Turn::Refused,
                    Route::AtMost { .. } | Route::Dropped { .. } | Route::Nobody { .. } => Turn::Silent,
                };
                let look = async move {
                    told(cell::call(scene, from, &row.target(), &route, CALLS, Duration::ZERO).await)
                };
                (turn, look.boxed())
            }
            Ask::Health { service, at } => {
                if !matches!(from, Vantage::Outside | Vantage::Node(_)) {
                    return not_asked("health check ports are for those who balance over nodes");
                }
                let look = async move {
                    let label = format!("{} of `{}`", row.destination, row.subject);
                    told(cell::check(scene, &grid.world, from, *at, service, &label).await)
                };
                (Turn::Answered, look.boxed())
            }
            Ask::Name { name, kind, form } => {
                let asking = resolve_as_promised(Vec::new(), *kind, Vec::new());
                let asking = match (form, from) {
                    (_, Vantage::Outside) => return not_asked("the names are the cluster's own"),
                    (Form::Whole, Vantage::Node(_)) => match name_server(&grid.world) {
                        Some(server) => asking.of(server),
                        None => return not_asked("nobody says which server knows the cluster's names"),
                    },
                    (Form::Whole, _) => asking,
                    (_, Vantage::Node(_)) => return not_asked("only pods search the cluster's domains"),
                    (Form::Bare, Vantage::PodOn(_)) => return not_asked("it is a name of another namespace"),
                    (Form::Bare | Form::Searched, _) => asking.searching(),
                };
                let look = async move {
                    let asked = asking.look_up(scene, &grid.world, from, name).await?;
                    let cell = Cell::of(asked.promised, &asked.outcomes, asked.why);
                    anyhow::Ok(match asked.is_promised || cell.why.is_some() {
                        true => cell,
                        false => Cell { verdict: CellVerdict::NotPromised, ..cell },
                    })
                };
                (Turn::Answered, look.map(told).boxed())
            }
            Ask::Request(request) => {
                let look = async move {
                    let controller = ingress::controller(scene)?;
                    let door = ingress::door(controller, request);
                    let address = match from {
                        Vantage::Outside => {
                            let node = nodes(&grid.world).next().map(|(_, ip)| ip);
                            let at = node.zip(door.node_port);
                            let (ip, port) = at.context("the ingress controller has no node port")?;
                            SocketAddr::new(ip, port)
                        }
                        _ => door.at_cluster_ip,
                    };
                    let promised = Promised::of(scene, &grid.world, request, &grid.secrets)?;
                    if matches!(promised.route, Route::NotPromised { .. }) {
                        return Ok(Cell::not_promised(promised.to_string()));
                    }
                    let workload = scene.workload(ingress::probe(address, request), CALLS);
                    let outcomes = scene.call(from, &request.to_string(), workload).await?;
                    let why = promised.unlike(&outcomes)?;
                    anyhow::Ok(Cell::of(promised.to_string(), &outcomes, why))
                };
                (Turn::Answered, look.map(told).boxed())
            }
        }
    }

    fn report(&self, scene: &Scene, grid: &Grid, looked: Vec<Looked>, duration: Duration) -> TableReport {
        let calls = looked.iter().flat_map(|looked| looked.cell.seen.values()).sum();
        let rows = grid.rows.iter().map(|row| RowReport {
            subject: row.subject.clone(),
            destination: row.destination.clone(),
            address: row.ask.to_string(),
            cells: vec![CellReport::default(); grid.columns.len()],
        });
        let mut rows: Vec<RowReport> = rows.collect();
        for Looked { row, column, cell } in looked {
            let Cell { verdict, answered, promised, seen, why, .. } = cell;
            rows[row].cells[column] = CellReport { verdict, answered, promised, seen, why };
        }
        // Who cannot reach what answers everybody, or hears somebody where nobody is, tells nothing.
        let is_control = |row: &Row| matches!(row.ask, Ask::Control { .. });
        let controls: Vec<usize> = (0..rows.len()).filter(|row| is_control(&grid.rows[*row])).collect();
        for column in 0..grid.columns.len() {
            let failed =
                controls.iter().find(|row| rows[**row].cells[column].verdict == CellVerdict::Differs);
            let Some(failed) = failed.map(|row| rows[*row].destination.clone()) else { continue };
            for row in &mut rows {
                let cell = &mut row.cells[column];
                if cell.verdict >= CellVerdict::AsPromised {
                    cell.verdict = CellVerdict::CouldNotTell;
                    cell.why = Some(match cell.why.take() {
                        Some(why) => format!("{why}; the control `{failed}` failed there"),
                        None => format!("the control `{failed}` failed there"),
                    });
                }
            }
        }
        TableReport {
            namespace: scene.namespace().to_owned(),
            columns: columns(&grid.columns),
            rows,
            remarks: self.remarks(scene, grid),
            calls,
            duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            waited_ms: 0,
        }
    }

    /// What is missing in the table, each with the reason.
    fn remarks(&self, scene: &Scene, grid: &Grid) -> Vec<String> {
        let mut remarks: Vec<String> = self.remarks.iter().cloned().collect();
        let has = |wanted: fn(&Vantage) -> bool| grid.columns.iter().any(wanted);
        if !has(|from| matches!(from, Vantage::Node(_))) {
            remarks.push(format!("nodes have no column: {}", Capability::HostNetwork.lacking()));
        }
        if !has(|from| matches!(from, Vantage::Outside)) {
            remarks.push(format!("outside has no column: {}", Capability::NodesReachable.lacking()));
        }
        if !has(|from| matches!(from, Vantage::Backend(_))) {
            let why = "no pod of the namespace is ready and runs `agent serve`, which can call";
            remarks.push(format!("back ends have no columns: {why}"));
        }
        remarks.extend(rows::remarks(scene, &grid.world));
        remarks
    }
}

fn promised_route(scene: &Scene, world: &World, from: &Vantage, to: Destination) -> Route {
    route(world, scene.cluster.promises(), &scene.vantages().to_model(from), &to)
}

/// Who cannot look cannot tell.
fn told(cell: anyhow::Result<Cell>) -> Cell {
    cell.unwrap_or_else(|error| Cell::could_not_tell(String::new(), format!("{error:#}")))
}

/// A call that needs no service: of a server that answers everybody, or of a port where nobody listens.
async fn control(scene: &Scene, from: &Vantage, to: SocketAddr, open: bool) -> Cell {
    let promised = match open {
        true => format!("{to} answers, without any service"),
        false => format!("nobody listens at {to}"),
    };
    let looked = scene.call(from, &format!("control ({to})"), scene.workload(http(to), 1)).await;
    let outcomes = match looked {
        Ok(outcomes) => outcomes,
        Err(error) => return Cell::could_not_tell(promised, format!("{error:#}")),
    };
    let cell = Cell::of(promised, &outcomes, None);
    match (cell.answered, open) {
        (true, true) | (false, false) => cell,
        (answered, _) => {
            let why = if answered { "was answered" } else { "was not answered" };
            Cell { verdict: CellVerdict::Differs, why: Some(why.to_owned()), ..cell }
        }
    }
}

/// Where cluster DNS is, for those who are not told.
fn name_server(world: &World) -> Option<SocketAddr> {
    let spec = world.services.get(&cluster_dns())?.spec.as_ref()?;
    Some(SocketAddr::new(spec.cluster_ip.as_deref()?.parse().ok()?, 53))
}

/// What stands above each column.
fn columns(vantages: &[Vantage]) -> Vec<ColumnReport> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut column = |vantage: &Vantage| {
        let (letter, words) = match vantage {
            Vantage::PodOn(_) => ("p", vantage.to_string()),
            Vantage::Node(_) => ("n", vantage.to_string()),
            Vantage::Outside => ("out", "a host outside the cluster".to_owned()),
            Vantage::Backend(ObjectKey { name, .. }) => ("b", format!("the back end `{name}`")),
        };
        let count = counts.entry(letter).or_default();
        *count += 1;
        let id = if letter == "out" { letter.to_owned() } else { format!("{letter}{count}") };
        ColumnReport { id, vantage: words }
    };
    vantages.iter().map(&mut column).collect()
}
