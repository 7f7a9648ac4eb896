//! Which EndpointSlices to create, update and delete, so that few of them change
//! ([EndpointSlices, "Distribution of EndpointSlices"](https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#distribution-of-endpointslices)).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// "By default, the control plane creates and manages EndpointSlices to have no more than 100
/// endpoints each."
pub(crate) const MOST_ENDPOINTS: usize = 100;

/// Name, number, protocol, application protocol.
pub(crate) type Port = (String, i32, String, Option<String>);

/// Address type and ports: endpoints that have these in common share slices.
pub(crate) type Group = (String, Vec<Port>);

/// The endpoints there should be. A family without any still has its entry in `families`.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) families: Vec<String>,
    pub(crate) groups: BTreeMap<Group, Vec<Endpoint>>,
    /// What every slice of the service carries: labels, owner, and how new ones are named;
    /// annotations only if there is something to be said about them.
    pub(crate) metadata: ObjectMeta,
    /// How many endpoints a slice may have.
    pub(crate) most: usize,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            families: Vec::new(),
            groups: BTreeMap::new(),
            metadata: ObjectMeta::default(),
            most: MOST_ENDPOINTS,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) create: Vec<EndpointSlice>,
    pub(crate) update: Vec<EndpointSlice>,
    pub(crate) delete: Vec<Arc<EndpointSlice>>,
}

/// Plans one step from the existing slices of a service to the wanted endpoints.
pub(crate) fn plan(wanted: &Wanted, existing: &[Arc<EndpointSlice>]) -> Plan {
    let mut by_group = BTreeMap::<Group, Vec<Arc<EndpointSlice>>>::new();
    for slice in existing {
        by_group.entry(group(slice)).or_default().push(Arc::clone(slice));
    }
    let mut plan = Plan::default();
    for (group, endpoints) in &wanted.groups {
        let slices = by_group.remove(group).unwrap_or_default();
        plan_group(&mut plan, group, endpoints, slices, wanted.most);
    }
    for family in &wanted.families {
        // No endpoint at all: one slice says so.
        if wanted.groups.iter().any(|((of, _), endpoints)| of == family && !endpoints.is_empty()) {
            continue;
        }
        let empty = (family.clone(), Vec::new());
        let is_empty = |slice: &Arc<EndpointSlice>| slice.endpoints.iter().flatten().next().is_none();
        let placeholder = by_group.get_mut(&empty).and_then(|slices| {
            let index = slices.iter().position(is_empty)?;
            Some(slices.remove(index))
        });
        match placeholder {
            Some(slice) => plan.update.push((*slice).clone()),
            None => plan.create.push(new_slice(&empty, Vec::new())),
        }
    }
    plan.delete.extend(by_group.into_values().flatten());
    reuse(&mut plan);
    for slice in plan.create.iter_mut().chain(&mut plan.update) {
        dress(&mut slice.metadata, &wanted.metadata);
    }
    // What turns out as it was needs no request.
    plan.update.retain(|slice| {
        !existing.iter().any(|before| before.metadata.name == slice.metadata.name && **before == *slice)
    });
    plan
}

/// What is still wanted stays where it is; what is new goes first where something changes anyway, then
/// into one slice with room for all of it, and only then into new slices.
fn plan_group(
    plan: &mut Plan,
    group: &Group,
    endpoints: &[Endpoint],
    slices: Vec<Arc<EndpointSlice>>,
    most: usize,
) {
    let mut missing: BTreeMap<_, _> =
        endpoints.iter().map(|endpoint| (identity(endpoint), endpoint.clone())).collect();
    let mut changed = Vec::new();
    let mut same = Vec::new();
    for slice in slices {
        let before = slice.endpoints.as_deref().unwrap_or_default();
        let after: Vec<_> = before.iter().filter_map(|one| missing.remove(&identity(one))).collect();
        if after == before && after.len() <= most && !after.is_empty() {
            same.push(slice);
        } else {
            changed.push((slice, after));
        }
    }
    let mut missing: Vec<_> = missing.into_values().collect();
    for (_, endpoints) in &mut changed {
        // A slice that somebody made too long gives back.
        if endpoints.len() > most {
            missing.extend(endpoints.split_off(most));
        }
    }
    for (_, endpoints) in &mut changed {
        let room = most - endpoints.len();
        endpoints.extend(missing.drain(..room.min(missing.len())));
    }
    while missing.len() >= most {
        plan.create.push(new_slice(group, missing.drain(..most).collect()));
    }
    if !missing.is_empty() {
        let length = |slice: &Arc<EndpointSlice>| slice.endpoints.as_ref().map_or(0, Vec::len);
        let fullest = same
            .iter()
            .enumerate()
            .filter(|(_, slice)| length(slice) + missing.len() <= most)
            .max_by_key(|(_, slice)| length(slice))
            .map(|(index, _)| index);
        match fullest {
            Some(index) => {
                let slice = same.remove(index);
                let mut endpoints = slice.endpoints.clone().unwrap_or_default();
                endpoints.append(&mut missing);
                changed.push((slice, endpoints));
            }
            None => plan.create.push(new_slice(group, missing)),
        }
    }
    for (slice, endpoints) in changed {
        if endpoints.is_empty() {
            plan.delete.push(slice);
        } else {
            plan.update.push(EndpointSlice { endpoints: Some(endpoints), ..(*slice).clone() });
        }
    }
    // Unchanged ones may still need other labels.
    plan.update.extend(same.into_iter().map(|slice| (*slice).clone()));
}

/// A slice that would go takes the contents of one that would come: one request instead of two.
fn reuse(plan: &mut Plan) {
    for created in std::mem::take(&mut plan.create) {
        let fits = plan.delete.iter().position(|slice| slice.address_type == created.address_type);
        match fits {
            Some(index) => {
                let slice = plan.delete.remove(index);
                plan.update.push(EndpointSlice { metadata: slice.metadata.clone(), ..created });
            }
            None => plan.create.push(created),
        }
    }
}

fn dress(metadata: &mut ObjectMeta, wanted: &ObjectMeta) {
    metadata.labels.clone_from(&wanted.labels);
    metadata.owner_references.clone_from(&wanted.owner_references);
    if let Some(annotations) = &wanted.annotations {
        metadata.annotations = Some(annotations.clone()).filter(|annotations| !annotations.is_empty());
    }
    if metadata.name.is_none() {
        metadata.generate_name.clone_from(&wanted.generate_name);
        metadata.namespace.clone_from(&wanted.namespace);
    }
}

fn new_slice((family, ports): &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let port = |(name, port, protocol, app_protocol): &Port| EndpointPort {
        name: Some(name.clone()),
        port: Some(*port),
        protocol: Some(protocol.clone()),
        app_protocol: app_protocol.clone(),
    };
    EndpointSlice {
        address_type: family.clone(),
        endpoints: Some(endpoints),
        metadata: ObjectMeta::default(),
        ports: Some(ports.iter().map(port).collect::<Vec<_>>()).filter(|ports| !ports.is_empty()),
    }
}

fn group(slice: &EndpointSlice) -> Group {
    let port = |port: &EndpointPort| {
        (
            port.name.clone().unwrap_or_default(),
            port.port.unwrap_or_default(),
            port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port.app_protocol.clone(),
        )
    };
    let mut ports: Vec<_> = slice.ports.iter().flatten().map(port).collect();
    ports.sort();
    (slice.address_type.clone(), ports)
}

fn identity(endpoint: &Endpoint) -> (Vec<String>, Option<String>) {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    (endpoint.addresses.clone(), uid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn endpoint(number: u16, ready: bool) -> Endpoint {
        serde_json::from_value(json!({
            "addresses": [format!("10.0.{}.{}", number / 250, number % 250)],
            "conditions": {"ready": ready}, "targetRef": {"uid": number.to_string()},
        }))
        .unwrap()
    }

    fn port(number: i32) -> Port {
        ("http".to_owned(), number, "TCP".to_owned(), None)
    }

    fn wanted(endpoints: &[(u16, i32, bool)]) -> Wanted {
        let mut wanted = Wanted { families: vec!["IPv4".to_owned()], ..Wanted::default() };
        wanted.metadata.labels = Some([("service".to_owned(), "web".to_owned())].into());
        wanted.metadata.generate_name = Some("web-".to_owned());
        for (number, to, ready) in endpoints {
            let group = ("IPv4".to_owned(), vec![port(*to)]);
            wanted.groups.entry(group).or_default().push(endpoint(*number, *ready));
        }
        wanted
    }

    fn named(mut slice: EndpointSlice, name: &str) -> Arc<EndpointSlice> {
        slice.metadata.name = Some(name.to_owned());
        Arc::new(slice)
    }

    fn carried_out(existing: &[Arc<EndpointSlice>], plan: &Plan) -> Vec<Arc<EndpointSlice>> {
        let name = |slice: &EndpointSlice| slice.metadata.name.clone().unwrap_or_default();
        let mut slices: BTreeMap<_, _> =
            existing.iter().map(|slice| (name(slice), Arc::clone(slice))).collect();
        for gone in &plan.delete {
            slices.remove(&name(gone)).expect("only what exists is deleted");
        }
        for updated in &plan.update {
            let before = slices.insert(name(updated), Arc::new(updated.clone())).expect("it exists");
            assert_eq!(before.address_type, updated.address_type, "the address type is immutable");
        }
        for (number, created) in plan.create.iter().enumerate() {
            let made = format!("new-{number}");
            slices.insert(made.clone(), named(created.clone(), &made));
        }
        slices.into_values().collect()
    }

    fn lengths(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
        slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).collect()
    }

    #[test]
    fn a_change_touches_one_slice() {
        let mut all: Vec<_> = (0..230).map(|number| (number, 80, true)).collect();
        let slices = carried_out(&[], &plan(&wanted(&all), &[]));
        assert_eq!(lengths(&slices), [100, 100, 30]);
        all[150].2 = false;
        let flipped = plan(&wanted(&all), &slices);
        assert_eq!((flipped.create.len(), flipped.update.len(), flipped.delete.len()), (0, 1, 0));
        let changed = flipped.update[0].endpoints.iter().flatten().filter(|endpoint| {
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(false)
        });
        assert_eq!(changed.count(), 1);
        let slices = carried_out(&slices, &flipped);
        all.extend((500..520).map(|number| (number, 80, true)));
        let grown = plan(&wanted(&all), &slices);
        assert_eq!((grown.create.len(), grown.update.len(), grown.delete.len()), (0, 1, 0));
        assert_eq!(lengths(&carried_out(&slices, &grown)), [100, 100, 50]);
    }

    #[test]
    fn no_endpoint_leaves_one_empty_slice_without_ports() {
        let none = plan(&wanted(&[]), &[]);
        assert_eq!(none.create.len(), 1);
        let slices = carried_out(&[], &none);
        assert_eq!((lengths(&slices), slices[0].ports.is_none()), (vec![0], true));
        let first = plan(&wanted(&[(1, 80, true)]), &slices);
        assert_eq!((first.create.len(), first.update.len(), first.delete.len()), (0, 1, 0), "it is reused");
        let slices = carried_out(&slices, &first);
        let last = plan(&wanted(&[]), &slices);
        assert_eq!((last.create.len(), last.update.len(), last.delete.len()), (0, 1, 0));
        assert!(last.update[0].ports.is_none());
    }

    #[test]
    fn different_numbers_of_a_named_port_get_slices_of_their_own() {
        let slices = carried_out(&[], &plan(&wanted(&[(1, 80, true), (2, 81, true), (3, 80, true)]), &[]));
        assert_eq!(lengths(&slices), [2, 1]);
    }

    fn any_wanted() -> impl Strategy<Value = Vec<(u16, i32, bool)>> {
        let some = prop::collection::btree_map(0..400_u16, (80..83_i32, any::<bool>()), 0..250);
        some.prop_map(|all| all.into_iter().map(|(number, (to, ready))| (number, to, ready)).collect())
    }

    prop_compose! {
        /// Slices as anybody could have left them: too long, double, with ports nobody has.
        fn any_slices()(
            slices in prop::collection::vec((78..84_i32, prop::collection::vec((0..400_u16, any::<bool>()), 0..130)), 0..6),
        ) -> Vec<Arc<EndpointSlice>> {
            let slices = slices.into_iter().enumerate();
            slices.map(|(index, (to, endpoints))| {
                let ports = if to < 80 { Vec::new() } else { vec![port(to)] };
                let endpoints = endpoints.into_iter().map(|(number, ready)| endpoint(number, ready)).collect();
                named(new_slice(&("IPv4".to_owned(), ports), endpoints), &format!("old-{index}"))
            }).collect()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn one_step_is_enough_whatever_there_was(all in any_wanted(), existing in any_slices()) {
            let wanted = wanted(&all);
            let slices = carried_out(&existing, &plan(&wanted, &existing));
            prop_assert!(lengths(&slices).iter().all(|length| *length <= MOST_ENDPOINTS));
            let mut seen = BTreeMap::<Group, Vec<Endpoint>>::new();
            for slice in &slices {
                prop_assert_eq!(&slice.metadata.labels, &wanted.metadata.labels);
                let endpoints = slice.endpoints.clone().unwrap_or_default();
                prop_assert!(!endpoints.is_empty() || slices.len() == 1, "empty slices are deleted");
                if !endpoints.is_empty() {
                    seen.entry(group(slice)).or_default().extend(endpoints);
                }
            }
            prop_assert!(!slices.is_empty());
            let sorted = |groups: &BTreeMap<Group, Vec<Endpoint>>| {
                let mut groups = groups.clone();
                groups.values_mut().for_each(|endpoints| endpoints.sort_by_key(identity));
                groups
            };
            prop_assert_eq!(sorted(&seen), sorted(&wanted.groups), "each exactly once");
            let again = plan(&wanted, &slices);
            prop_assert_eq!((again.create.len(), again.update.len(), again.delete.len()), (0, 0, 0));
        }

        /// Every write is owed to something that changed: to a slice that loses or alters an endpoint,
        /// or to endpoints that are new, a hundred at a time.
        #[test]
        fn few_slices_are_written(before in any_wanted(), after in any_wanted(), same in any::<bool>()) {
            let before = wanted(&before);
            let after = if same { grown(&before) } else { wanted(&after) };
            let existing = carried_out(&[], &plan(&before, &[]));
            let next = plan(&after, &existing);
            let writes = next.create.len() + next.update.len() + next.delete.len();
            let is_kept = |slice: &EndpointSlice, one: &Endpoint| {
                after.groups.get(&group(slice)).is_some_and(|endpoints| endpoints.contains(one))
            };
            let touched = existing.iter().filter(|slice| {
                let mut endpoints = slice.endpoints.iter().flatten();
                endpoints.clone().next().is_none() || endpoints.any(|one| !is_kept(slice, one))
            });
            let had = |group: &Group, one: &Endpoint| {
                before.groups.get(group).is_some_and(|all| all.iter().any(|old| identity(old) == identity(one)))
            };
            let new = after.groups.iter().map(|(group, endpoints)| {
                endpoints.iter().filter(|one| !had(group, one)).count().div_ceil(MOST_ENDPOINTS)
            });
            let most = touched.count() + new.sum::<usize>() + usize::from(after.groups.is_empty());
            prop_assert!(writes <= most, "{} writes, {} are owed", writes, most);
            prop_assert!(plan(&before, &existing).update.is_empty(), "no change, no write");
        }
    }

    /// The same with one endpoint more in every group.
    fn grown(before: &Wanted) -> Wanted {
        let mut after = before.clone();
        for (number, endpoints) in (1000..).zip(after.groups.values_mut()) {
            endpoints.push(endpoint(number, true));
        }
        after
    }
}
