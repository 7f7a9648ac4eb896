//! Serving: connections, and which part of the server answers which request.

use std::sync::Arc;

use axum::body::Body;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::authn::{self, User};
use super::limits::{self, Budgets};
use super::rbac::{Action, Attributes, Authorizer};
use super::registry::{DeleteOptions, Part, Registry, Written};
use super::request::{self, Form, Query, Target};
use super::resources::{PODS, SERVICE_ACCOUNTS, SERVICE_CIDRS};
use super::status::{self, Result, Status};
use super::store::{Key, Object};
use super::tls::Tls;
use super::token::Tokens;
use super::view::View;
use super::watch::Watch;
use super::{compression, discovery, exec, list, openapi, patch, pod, review, scale, warnings};
use crate::namespace::Listening;

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) registry: Arc<Registry>,
    pub(crate) tls: Tls,
    pub(crate) tokens: Tokens,
    pub(crate) authorizer: Authorizer,
    pub(crate) kubelets: exec::Kubelets,
    pub(crate) version: String,
    pub(crate) budgets: Budgets,
}

/// What one connection knows.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    certified: Option<User>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// Takes connections until told to stop.
pub(crate) async fn accept(
    shared: Arc<Shared>,
    listener: Listening,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection to the API server was not accepted");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&shared.budgets.connections).try_acquire_owned() else {
            tracing::debug!("a connection to the API server was closed: there are too many");
            continue;
        };
        let context = Context {
            shared: Arc::clone(&shared),
            certified: None,
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let stop = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = serve(context, stream) => {}
                () = stop.cancelled() => {}
            }
            drop(permit);
        });
    }
}

async fn serve(mut context: Context, stream: TcpStream) {
    // Small answers must not wait for large ones.
    let _ = stream.set_nodelay(true);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&context.shared.tls.server));
    let stream = match tokio::time::timeout(limits::HANDSHAKE_TIME, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake with the API server failed"),
        Err(_) => return tracing::debug!("a TLS handshake with the API server took too long"),
    };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    context.certified = context.shared.tls.verified(chain).and_then(authn::of_certificate);
    // Whoever asks for nothing does not need a connection.
    let asked = CancellationToken::new();
    let first = asked.clone();
    let service = service_fn(move |request| {
        first.cancel();
        let context = context.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(&context, request).await) }
    });
    // What was agreed on says which protocol it is: nobody has to wait for its first bytes.
    let agreed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if agreed { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits::HEAD_TIME);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits::QUIET_TIME)
        .keep_alive_timeout(limits::QUIET_TIME)
        .max_concurrent_streams(limits::STREAMS);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let silence = async {
        if tokio::time::timeout(limits::HEAD_TIME, asked.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to the API server broke");
            }
        }
        () = silence => tracing::debug!("a connection to the API server was closed: nothing was asked"),
    }
}

async fn answer(context: &Context, request: Request<Incoming>) -> Response<Body> {
    route(context, request).await.unwrap_or_else(|status| refusal(&status))
}

async fn route(context: &Context, request: Request<Incoming>) -> Result<Response<Body>> {
    let path = request.uri().path().to_owned();
    let path = path.trim_end_matches('/');
    match path.split('/').nth(1).unwrap_or_default() {
        "healthz" | "livez" | "readyz" => return Ok(text(StatusCode::OK, "ok")),
        "version" => return Ok(value(StatusCode::OK, &discovery::version(&context.shared.version))),
        _ => {}
    }
    let shared = &context.shared;
    let user =
        authn::authenticate(context.certified.as_ref(), request.headers(), &shared.tokens, &shared.registry)?;
    let may = |user: &User, attributes: &Attributes<'_>| {
        shared.authorizer.require(&shared.registry.store, user, attributes)
    };
    let user = authn::impersonate(user, request.headers(), may)?;
    let method = request.method().as_str().to_lowercase();
    let may_see = || may(&user, &Attributes::Path { verb: &method, path });
    if request.method() == Method::GET {
        if let Some((media_type, document)) = discovery::document(path, request.headers()) {
            may_see()?;
            return Ok(typed(StatusCode::OK, media_type, Bytes::from(document.to_string())));
        }
        if path == "/openapi/v2" {
            may_see()?;
            return Ok(typed(StatusCode::OK, openapi::V2_MEDIA_TYPE, openapi::V2));
        }
        if let Some(document) = openapi::document(path) {
            may_see()?;
            return large(context, Bytes::from(document.to_string()));
        }
    }
    if let Some((group, resource, kind)) = review::of_path(path) {
        if request.method() != Method::POST {
            return Err(Status::method_not_allowed());
        }
        may(&user, &Attributes::Resource(Action { verb: "create", group, resource, ..Action::default() }))?;
        let (headers, body) = read(context, request).await?;
        let body = request::read_object(&headers, &body)?;
        return Ok(value(StatusCode::CREATED, &review::answer(kind, &user, shared, body)?));
    }
    let Some(target) = Target::parse(path) else {
        may_see()?;
        return Err(Status::unknown_path());
    };
    act(context, &user, target, request).await
}

async fn act(
    context: &Context,
    user: &User,
    target: Target,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let query = Query::parse(request.uri())?;
    let verb = verb(&target, &query, request.method())?;
    let action = action(&target, &query, verb);
    let shared = &context.shared;
    let may = |action: Action<'_>| {
        shared.authorizer.require(&shared.registry.store, user, &Attributes::Resource(action))
    };
    may(action)?;
    // A WebSocket begins with a GET, but running a command is no reading.
    if verb == "get" && ["exec", "attach", "portforward"].contains(&action.subresource) {
        may(Action { verb: "create", ..action })?;
    }
    let acted = act_as_allowed(context, &target, verb, query, request).await;
    let Some(deprecated) = target.resource.deprecated else { return acted };
    // A refusal comes with it too.
    let mut response = acted.unwrap_or_else(|status| refusal(&status));
    warnings::add(&mut response, deprecated);
    Ok(response)
}

async fn act_as_allowed(
    context: &Context,
    target: &Target,
    verb: &str,
    query: Query,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    if let Some(name) = target.subresource.clone() {
        let subresource = target.resource.subresource(&name).ok_or_else(Status::unknown_path)?;
        if !subresource.verbs.contains(&verb) {
            return Err(Status::method_not_allowed());
        }
        return act_on_part(context, target, &name, verb, query, request).await;
    }
    let registry = &context.shared.registry;
    let resource = target.resource;
    let view = if verb == "deletecollection" || verb == "delete" {
        View::WHOLE
    } else {
        View::new(Form::negotiate(request.headers())?, &query, &registry.bugs)
    };
    match verb {
        "get" => {
            let object = registry.get(resource, &target.key())?;
            let current = registry.store.transaction().version();
            if let Some(asked) = query.version()?.filter(|asked| *asked > current) {
                return Err(Status::too_large_version(asked, current));
            }
            long(context, request.headers(), view.object(resource, &object)).await
        }
        "list" => long(context, request.headers(), list::list(registry, target, &query, view)?).await,
        "watch" => {
            let watch = Watch::start(registry, target, &query, view)?;
            Ok(typed(StatusCode::OK, "application/json;stream=watch", Body::from_stream(watch.into_stream())))
        }
        "create" => {
            let namespace = match (resource.namespaced, target.namespace.as_deref()) {
                (true, None) => return Err(Status::method_not_allowed()),
                (_, namespace) => namespace.unwrap_or_default(),
            };
            if resource.id() == SERVICE_CIDRS.id() {
                let why = "this cluster has one range of service addresses, chosen at its start";
                return Err(Status::forbidden(resource, "", why));
            }
            let (headers, body) = read(context, request).await?;
            let mut body = request::read_object(&headers, &body)?;
            if resource.kind == "Pod" {
                pod::wait_for_account(registry, namespace, &body).await?;
                pod::mount_token(registry, namespace, &mut body);
            }
            let written = registry.create(resource, namespace, body, query.write_options()?)?;
            Ok(shown(StatusCode::CREATED, view, target, &written))
        }
        "update" => {
            let (headers, body) = read(context, request).await?;
            let body = request::read_object(&headers, &body)?;
            let written =
                registry.update(resource, &target.key(), Part::Main, query.write_options()?, |_| Ok(body))?;
            Ok(shown(StatusCode::OK, view, target, &written))
        }
        "patch" => {
            let written = patch_object(context, target, Part::Main, &query, request).await?;
            Ok(shown(StatusCode::OK, view, target, &written))
        }
        "delete" => {
            let options = delete_options(context, &query, request).await?;
            let dry_run = query.dry_run()? || options.dry_run.as_ref().is_some_and(|runs| !runs.is_empty());
            let deletion = registry.delete(resource, &target.key(), &options, dry_run)?;
            if deletion.gone && !resource.returns_deleted {
                let uid = super::json::text(&deletion.object.value, "/metadata/uid");
                let name = target.name.as_deref().unwrap_or_default();
                return Ok(value(StatusCode::OK, &status::deleted(resource, name, uid)));
            }
            Ok(json(StatusCode::OK, view.object(resource, &deletion.object)))
        }
        "deletecollection" => {
            let selection = super::selector::Selection::parse(
                resource,
                query.get("labelSelector"),
                query.get("fieldSelector"),
            )?;
            let headers = request.headers().clone();
            let options = delete_options(context, &query, request).await?;
            let dry_run = query.dry_run()? || options.dry_run.as_ref().is_some_and(|runs| !runs.is_empty());
            let namespace = target.namespace.as_deref();
            let deleted = registry.delete_collection(resource, namespace, &selection, &options, dry_run)?;
            let version = registry.store.transaction().version().to_string();
            let metadata = serde_json::json!({"resourceVersion": version});
            long(context, &headers, view.list(resource, &metadata, &deleted)).await
        }
        _ => Err(Status::method_not_allowed()),
    }
}

async fn act_on_part(
    context: &Context,
    target: &Target,
    name: &str,
    verb: &str,
    query: Query,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let registry = &context.shared.registry;
    let resource = target.resource;
    let key = target.key();
    match (name, verb) {
        ("exec" | "attach", _) => return exec::exec(context, &key, name, &query, request).await,
        ("log", "get") => return exec::log(context, &key, &query).await,
        ("portforward", _) => {
            let message = "ports are not forwarded by this server: reach pods from a pod or a node, for example \
                           with `kubectl exec POD -- curl http://ADDRESS`";
            return Err(Status::bad_request(message));
        }
        _ => {}
    }
    let view = View::new(Form::negotiate(request.headers())?, &query, &registry.bugs);
    match (name, verb) {
        ("status", "get") => Ok(json(StatusCode::OK, view.object(resource, &*registry.get(resource, &key)?))),
        ("status", "update") => {
            let (headers, body) = read(context, request).await?;
            let body = request::read_object(&headers, &body)?;
            let written =
                registry.update(resource, &key, Part::Status, query.write_options()?, |_| Ok(body))?;
            Ok(shown(StatusCode::OK, view, target, &written))
        }
        ("status", "patch") => {
            let written = patch_object(context, target, Part::Status, &query, request).await?;
            Ok(shown(StatusCode::OK, view, target, &written))
        }
        ("finalize", "update") => {
            let (headers, body) = read(context, request).await?;
            let body = request::read_object(&headers, &body)?;
            let written =
                registry.update(resource, &key, Part::Finalize, query.write_options()?, |_| Ok(body))?;
            Ok(shown(StatusCode::OK, view, target, &written))
        }
        ("scale", "get") => {
            let object = registry.get(resource, &key)?;
            Ok(value(StatusCode::OK, &scale::of(&object.value)))
        }
        ("scale", "update") => {
            let (headers, body) = read(context, request).await?;
            let scale = request::read_object(&headers, &body)?;
            let options = query.write_options()?;
            let written = registry.update(resource, &key, Part::Main, options, |object| {
                scale::apply(resource, object, &scale)
            })?;
            Ok(value(StatusCode::OK, &scale::of(&written.object.value)))
        }
        ("scale", "patch") => {
            let options = query.write_options()?;
            let (headers, body) = read(context, request).await?;
            let written = registry.update(resource, &key, Part::Main, options, |object| {
                let scale = patch::patch("Scale", &headers, &body, &scale::of(object))?;
                scale::apply(resource, object, &scale)
            })?;
            Ok(value(StatusCode::OK, &scale::of(&written.object.value)))
        }
        ("binding", "create") => {
            let options = query.write_options()?;
            let (headers, body) = read(context, request).await?;
            let binding = request::read_object(&headers, &body)?;
            registry
                .update(&PODS, &key, Part::Inside, options, |object| pod::bind(&key, object, &binding))?;
            Ok(value(StatusCode::CREATED, &status::success(201)))
        }
        ("eviction", "create") => {
            let (headers, body) = read(context, request).await?;
            let eviction = request::read_object(&headers, &body)?;
            let options = match eviction.get("deleteOptions") {
                None | Some(Value::Null) => DeleteOptions::default(),
                Some(options) => read_delete_options(options.clone())?,
            };
            let dry_run = query.dry_run()? || options.dry_run.as_ref().is_some_and(|runs| !runs.is_empty());
            registry.delete(&PODS, &key, &options, dry_run)?;
            Ok(value(StatusCode::CREATED, &status::success(201)))
        }
        ("token", "create") => {
            let (headers, body) = read(context, request).await?;
            let token = request::read_object(&headers, &body)?;
            let account: &Key = &key;
            debug_assert_eq!(resource.id(), SERVICE_ACCOUNTS.id());
            Ok(value(StatusCode::CREATED, &context.shared.tokens.issue(registry, account, &token)?))
        }
        _ => Err(Status::method_not_allowed()),
    }
}

/// What a method means on this path, in the words of authorization.
fn verb(target: &Target, query: &Query, method: &Method) -> Result<&'static str> {
    let named = target.name.is_some();
    let watch = query.flag("watch") && target.subresource.is_none();
    if target.resource.is_void && *method != Method::GET {
        return Err(Status::method_not_allowed());
    }
    Ok(match *method {
        Method::GET if watch => "watch",
        Method::GET if named => "get",
        Method::GET => "list",
        Method::POST if !named || target.subresource.is_some() => "create",
        Method::PUT if named => "update",
        Method::PATCH if named => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE if target.resource.verbs().contains(&"deletecollection") => "deletecollection",
        _ => return Err(Status::method_not_allowed()),
    })
}

/// What is to be decided about a request. A namespace lies in itself, and who lists one name by a field
/// selector asks for that name.
fn action<'a>(target: &'a Target, query: &'a Query, verb: &'a str) -> Action<'a> {
    let name = target.name.as_deref().unwrap_or_default();
    let selected = || {
        let terms = query.get("fieldSelector").split(',').filter_map(|term| term.split_once('='));
        let mut names = terms.filter(|(field, _)| *field == "metadata.name");
        names.next().map_or("", |(_, name)| name.trim_start_matches('='))
    };
    let is_namespace = target.resource.kind == "Namespace";
    let namespace = if is_namespace { name } else { target.namespace.as_deref().unwrap_or_default() };
    Action {
        verb,
        group: target.resource.group,
        resource: target.resource.plural,
        namespace,
        name: if name.is_empty() { selected() } else { name },
        subresource: target.subresource.as_deref().unwrap_or_default(),
    }
}

async fn patch_object(
    context: &Context,
    target: &Target,
    part: Part,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Written> {
    let options = query.write_options()?;
    patch::check_kind(request.headers())?;
    let (headers, body) = read(context, request).await?;
    context.shared.registry.update(target.resource, &target.key(), part, options, |object| {
        patch::patch(target.resource.kind, &headers, &body, object)
    })
}

async fn delete_options(
    context: &Context,
    query: &Query,
    request: Request<Incoming>,
) -> Result<DeleteOptions> {
    let (headers, body) = read(context, request).await?;
    let mut options = if body.is_empty() {
        DeleteOptions::default()
    } else {
        read_delete_options(request::read_object(&headers, &body)?)?
    };
    if let Some(seconds) = query.number("gracePeriodSeconds")? {
        options.grace_period_seconds = Some(seconds);
    }
    if query.has("propagationPolicy") {
        options.propagation_policy = Some(query.get("propagationPolicy").to_owned());
    }
    if query.has("orphanDependents") {
        options.orphan_dependents = Some(query.flag("orphanDependents"));
    }
    Ok(options)
}

fn read_delete_options(value: Value) -> Result<DeleteOptions> {
    serde_json::from_value(value)
        .map_err(|error| Status::bad_request(format!("the delete options cannot be read: {error}")))
}

/// The whole body of a request. It may neither be large nor slow.
async fn read(context: &Context, request: Request<Incoming>) -> Result<(http::HeaderMap, Bytes)> {
    let (head, mut body) = request.into_parts();
    if body.size_hint().lower() > limits::BODY as u64 {
        discard(&mut body).await;
        return Err(Status::too_large(limits::BODY));
    }
    let mut room = context.shared.budgets.body();
    let collect = async {
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Status::bad_request(format!("the body of the request cannot be read: {error}"))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > limits::BODY {
                discard(&mut body).await;
                return Err(Status::too_large(limits::BODY));
            }
            room.take(data.len())?;
            whole.put(data);
        }
        Ok(whole.freeze())
    };
    let body = tokio::time::timeout(limits::BODY_TIME, collect)
        .await
        .map_err(|_| Status::timeout("the body of the request did not arrive in time"))??;
    Ok((head.headers, body))
}

/// Reads on for a while and keeps nothing: a connection that is closed while the client still writes
/// is reset, and with it may go the answer that says why.
async fn discard(body: &mut Incoming) {
    let discarded = async {
        let mut left = limits::BODY;
        while let Some(Ok(frame)) = body.frame().await {
            let read = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(read) else { return };
            left = rest;
        }
    };
    // Who is that slow does without the answer.
    let _ = tokio::time::timeout(limits::BODY_TIME, discarded).await;
}

/// Objects, which may be long: compressed if they are and the client asks for it.
async fn long(context: &Context, headers: &http::HeaderMap, body: Bytes) -> Result<Response<Body>> {
    if body.len() < compression::LEAST || !compression::is_asked_for(headers) {
        return large(context, body);
    }
    let room = context.shared.budgets.room_for(&body)?;
    let compressed = compression::gzip(body).await?;
    drop(room);
    let mut response = large(context, compressed)?;
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    Ok(response)
}

/// An answer that may be long, and that a client may be slow to read.
fn large(context: &Context, body: Bytes) -> Result<Response<Body>> {
    Ok(typed(StatusCode::OK, "application/json", context.shared.budgets.answer(body)?))
}

fn shown(code: StatusCode, view: View, target: &Target, written: &Written) -> Response<Body> {
    let object: &Object = &written.object;
    let mut response = json(code, view.object(target.resource, object));
    for warning in &written.warnings {
        warnings::add(&mut response, warning);
    }
    response
}

fn json(code: StatusCode, body: Bytes) -> Response<Body> {
    typed(code, "application/json", body)
}

pub(crate) fn value(code: StatusCode, body: &Value) -> Response<Body> {
    json(code, Bytes::from(body.to_string()))
}

fn text(code: StatusCode, body: &'static str) -> Response<Body> {
    typed(code, "text/plain; charset=utf-8", body)
}

pub(crate) fn typed(code: StatusCode, media_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn refusal(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    value(code, &status.to_value())
}
