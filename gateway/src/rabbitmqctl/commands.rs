//! The commands there are: how they are used, what they say they do, and what does it.

use super::{
    Failure, Session, arguments::Call, definitions, identities, listings, node, node_name,
    output::Output, patience, queues, rules,
};

/// One command.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    /// What stands behind its name.
    pub(super) usage: &'static str,
    /// How many arguments it takes.
    pub(super) least: usize,
    pub(super) most: usize,
    /// What people are told before it is done, with what stands for parts of the call; nothing where it is
    /// empty.
    banner: &'static str,
    pub(super) run: fn(&Session) -> Result<Output, Failure>,
}

/// Commands of RabbitMQ's that are about what there is none of here.
pub(super) const ABSENT: [&str; 38] = [
    "autocomplete",
    "await_online_nodes",
    "cancel_sync_queue",
    "change_cluster_node_type",
    "decode",
    "encode",
    "environment",
    "eval",
    "eval_file",
    "exec",
    "force_boot",
    "force_gc",
    "force_reset",
    "forget_cluster_node",
    "hipe_compile",
    "join_cluster",
    "list_ciphers",
    "list_hashes",
    "list_node_auth_attempt_stats",
    "list_unresponsive_queues",
    "rename_cluster_node",
    "report",
    "reset",
    "restart_vhost",
    "resume_listeners",
    "rotate_logs",
    "schema_info",
    "set_cluster_name",
    "set_disk_free_limit",
    "set_log_level",
    "set_vhost_tags",
    "start_app",
    "stop_app",
    "suspend_listeners",
    "sync_queue",
    "trace_off",
    "trace_on",
    "update_cluster_nodes",
];

pub(super) fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

const fn command(
    name: &'static str,
    usage: &'static str,
    (least, most): (usize, usize),
    banner: &'static str,
    run: fn(&Session) -> Result<Output, Failure>,
) -> Command {
    Command { name, usage, least, most, banner, run }
}

/// What people are told before a call is made.
pub(super) fn banner(call: &Call) -> String {
    let mut parts = call.command.banner.split('{');
    let mut told = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, text) = part.split_once('}').unwrap_or((part, ""));
        told.push_str(&part_of(call, name));
        told.push_str(text);
    }
    told
}

/// The part of a call that a name stands for.
fn part_of(call: &Call, name: &str) -> String {
    let (first, vhost) = (call.argument(0), call.vhost());
    match name {
        "vhost" => vhost.to_owned(),
        "node" => node_name(call),
        "priority" => call.option("--priority").unwrap_or("0").to_owned(),
        "seconds" => patience(call).as_secs().to_string(),
        "milliseconds" => patience(call).as_millis().to_string(),
        "rest" => call.arguments.get(1..).unwrap_or_default().join(", "),
        "of_user" => call
            .option("--user")
            .map_or_else(|| "all users".to_owned(), |user| format!("user \"{user}\"")),
        "of_vhost" if call.has("--global") => "all vhosts".to_owned(),
        "of_vhost" => format!("vhost \"{vhost}\""),
        "limit" if call.argument(1) == "all" => "all limits".to_owned(),
        "limit" => format!("\"{}\" limit", call.argument(1)),
        "on" => call.arguments.get(1).map_or_else(String::new, |at| format!("on \"{at}\" ")),
        "flags" if first == "all" => "all feature flags".to_owned(),
        "flags" => format!("feature flag \"{first}\""),
        "conditions" => {
            let all =
                [("--if-empty", "if queue is empty "), ("--if-unused", "if queue is unused ")];
            let some = all.iter().filter(|(option, _)| call.has(option));
            some.map(|(_, words)| *words).collect::<Vec<_>>().join("and ")
        }
        "where" if call.has("--global") => format!("to node {}", node_name(call)),
        "where" => format!("in vhost {vhost}"),
        "file" if matches!(first, "" | "-") => "standard input".to_owned(),
        "file" => format!("a file at \"{first}\""),
        "export" if first == "-" => String::new(),
        "export" => format!("Exporting definitions in JSON to a file at \"{first}\" ..."),
        place => call.argument(place.parse().unwrap_or(usize::MAX)).to_owned(),
    }
}

/// Columns are as many as somebody likes.
const ANY: usize = 1000;

const LISTED: &str = "[--vhost <vhost>] [--no-table-headers] [<column> ...] [--timeout <timeout>]";
const GLOBAL: &str = "[--no-table-headers] [<column> ...] [--timeout <timeout>]";
const POLICY: &str = "[--vhost <vhost>] [--priority <priority>] [--apply-to <apply-to>] <name> <pattern> <definition>";

/// All of them.
pub(super) static COMMANDS: [Command; 64] = [
    // Users.
    command(
        "add_user",
        "<username> <password> [--pre-hashed-password]",
        (1, 2),
        "Adding user \"{0}\" ...",
        identities::add_user,
    ),
    command(
        "authenticate_user",
        "<username> <password>",
        (1, 2),
        "Authenticating user \"{0}\" ...",
        identities::authenticate_user,
    ),
    command(
        "change_password",
        "<username> <password>",
        (1, 2),
        "Changing password for user \"{0}\" ...",
        identities::change_password,
    ),
    command(
        "clear_password",
        "<username>",
        (1, 1),
        "Clearing password for user \"{0}\" ...",
        identities::clear_password,
    ),
    command(
        "delete_user",
        "<username>",
        (1, 1),
        "Deleting user \"{0}\" ...",
        identities::delete_user,
    ),
    command(
        "list_users",
        "[--no-table-headers] [--timeout <timeout>]",
        (0, 0),
        "Listing users ...",
        identities::list_users,
    ),
    command(
        "set_user_tags",
        "<username> <tag> [...]",
        (1, ANY),
        "Setting tags for user \"{0}\" to [{rest}] ...",
        identities::set_user_tags,
    ),
    command(
        "list_user_limits",
        "[--user <username>] [--global]",
        (0, 0),
        "Listing limits for {of_user} ...",
        rules::list_user_limits,
    ),
    command(
        "set_user_limits",
        "<username> <definition>",
        (2, 2),
        "Setting user limits to \"{1}\" for user \"{0}\" ...",
        rules::set_user_limits,
    ),
    command(
        "clear_user_limits",
        "<username> <limit_type> | all",
        (2, 2),
        "Clearing {limit} for user \"{0}\" ...",
        rules::clear_user_limits,
    ),
    // Virtual hosts.
    command(
        "add_vhost",
        "<vhost> [--description <description> --tags \"<tag1>,<tag2>,<...>\" --default-queue-type <quorum|classic|stream>]",
        (1, 1),
        "Adding vhost \"{0}\" ...",
        identities::add_vhost,
    ),
    command(
        "delete_vhost",
        "<vhost>",
        (1, 1),
        "Deleting vhost \"{0}\" ...",
        identities::delete_vhost,
    ),
    command("list_vhosts", GLOBAL, (0, ANY), "Listing vhosts ...", listings::vhosts),
    command(
        "set_vhost_limits",
        "[--vhost <vhost>] <definition>",
        (1, 1),
        "Setting vhost limits to \"{0}\" for vhost \"{vhost}\" ...",
        rules::set_vhost_limits,
    ),
    command(
        "clear_vhost_limits",
        "[--vhost <vhost>]",
        (0, 0),
        "Clearing vhost \"{vhost}\" limits ...",
        rules::clear_vhost_limits,
    ),
    command(
        "list_vhost_limits",
        "[--vhost <vhost>] [--global] [--no-table-headers]",
        (0, 0),
        "Listing limits for {of_vhost} ...",
        rules::list_vhost_limits,
    ),
    // Permissions.
    command(
        "set_permissions",
        "[--vhost <vhost>] <username> <conf> <write> <read>",
        (4, 4),
        "Setting permissions for user \"{0}\" in vhost \"{vhost}\" ...",
        identities::set_permissions,
    ),
    command(
        "clear_permissions",
        "[--vhost <vhost>] <username>",
        (1, 1),
        "Clearing permissions for user \"{0}\" in vhost \"{vhost}\" ...",
        identities::clear_permissions,
    ),
    command(
        "list_permissions",
        "[--vhost <vhost>] [--no-table-headers] [--timeout <timeout>]",
        (0, 0),
        "Listing permissions for vhost \"{vhost}\" ...",
        identities::list_permissions,
    ),
    command(
        "list_user_permissions",
        "<username> [--no-table-headers]",
        (1, 1),
        "Listing permissions for user \"{0}\" ...",
        identities::list_user_permissions,
    ),
    command(
        "set_topic_permissions",
        "[--vhost <vhost>] <username> <exchange> <write> <read>",
        (4, 4),
        "Setting topic permissions on \"{1}\" for user \"{0}\" in vhost \"{vhost}\" ...",
        identities::set_topic_permissions,
    ),
    command(
        "clear_topic_permissions",
        "[--vhost <vhost>] <username> [<exchange>]",
        (1, 2),
        "Clearing topic permissions {on}for user \"{0}\" in vhost \"{vhost}\" ...",
        identities::clear_topic_permissions,
    ),
    command(
        "list_topic_permissions",
        "[--vhost <vhost>] [--no-table-headers]",
        (0, 0),
        "Listing topic permissions for vhost \"{vhost}\" ...",
        identities::list_topic_permissions,
    ),
    command(
        "list_user_topic_permissions",
        "<username> [--no-table-headers]",
        (1, 1),
        "Listing topic permissions for user \"{0}\" ...",
        identities::list_user_topic_permissions,
    ),
    // Policies and parameters.
    command(
        "set_policy",
        POLICY,
        (3, 3),
        "Setting policy \"{0}\" for pattern \"{1}\" to \"{2}\" with priority \"{priority}\" for vhost \"{vhost}\" ...",
        rules::set_policy,
    ),
    command(
        "clear_policy",
        "[--vhost <vhost>] <name>",
        (1, 1),
        "Clearing policy \"{0}\" on vhost \"{vhost}\" ...",
        rules::clear_policy,
    ),
    command(
        "list_policies",
        "[--vhost <vhost>] [--no-table-headers]",
        (0, 0),
        "Listing policies for vhost \"{vhost}\" ...",
        rules::list_policies,
    ),
    command(
        "set_operator_policy",
        POLICY,
        (3, 3),
        "Setting operator policy override \"{0}\" for pattern \"{1}\" to \"{2}\" with priority \"{priority}\" for vhost \"{vhost}\" ...",
        rules::set_operator_policy,
    ),
    command(
        "clear_operator_policy",
        "[--vhost <vhost>] <name>",
        (1, 1),
        "Clearing operator policy \"{0}\" on vhost \"{vhost}\" ...",
        rules::clear_operator_policy,
    ),
    command(
        "list_operator_policies",
        "[--vhost <vhost>] [--no-table-headers]",
        (0, 0),
        "Listing operator policy overrides for vhost \"{vhost}\" ...",
        rules::list_operator_policies,
    ),
    command(
        "set_parameter",
        "[--vhost <vhost>] <component_name> <name> <value>",
        (3, 3),
        "Setting runtime parameter \"{1}\" for component \"{0}\" to \"{2}\" in vhost \"{vhost}\" ...",
        rules::set_parameter,
    ),
    command(
        "clear_parameter",
        "[--vhost <vhost>] <component_name> <name>",
        (2, 2),
        "Clearing runtime parameter \"{1}\" for component \"{0}\" on vhost \"{vhost}\" ...",
        rules::clear_parameter,
    ),
    command(
        "list_parameters",
        "[--vhost <vhost>] [--no-table-headers]",
        (0, 0),
        "Listing runtime parameters for vhost \"{vhost}\" ...",
        rules::list_parameters,
    ),
    command(
        "set_global_parameter",
        "<name> <value>",
        (2, 2),
        "Setting global runtime parameter \"{0}\" to \"{1}\" ...",
        rules::set_global_parameter,
    ),
    command(
        "clear_global_parameter",
        "<name>",
        (1, 1),
        "Clearing global runtime parameter \"{0}\" ...",
        rules::clear_global_parameter,
    ),
    command(
        "list_global_parameters",
        "[--no-table-headers]",
        (0, 0),
        "Listing global runtime parameters ...",
        rules::list_global_parameters,
    ),
    // What there is.
    command(
        "list_queues",
        "[--vhost <vhost>] [--online] [--offline] [--local] [--no-table-headers] [<column>, ...] [--timeout <timeout>]",
        (0, ANY),
        "Timeout: {seconds}.0 seconds ...\nListing queues for vhost {vhost} ...",
        listings::queues,
    ),
    command(
        "list_exchanges",
        LISTED,
        (0, ANY),
        "Listing exchanges for vhost {vhost} ...",
        listings::exchanges,
    ),
    command(
        "list_bindings",
        LISTED,
        (0, ANY),
        "Listing bindings for vhost {vhost}...",
        listings::bindings,
    ),
    command("list_connections", GLOBAL, (0, ANY), "Listing connections ...", listings::connections),
    command(
        "list_channels",
        "[--no-table-headers] [<column> ...]",
        (0, ANY),
        "Listing channels ...",
        listings::channels,
    ),
    command(
        "list_consumers",
        LISTED,
        (0, ANY),
        "Listing consumers in vhost {vhost} ...",
        listings::consumers,
    ),
    command(
        "list_feature_flags",
        GLOBAL,
        (0, ANY),
        "Listing feature flags ...",
        listings::feature_flags,
    ),
    command(
        "enable_feature_flag",
        "<all | feature_flag>",
        (1, 1),
        "Enabling {flags} ...",
        node::enable_feature_flag,
    ),
    // What is done to it.
    command(
        "purge_queue",
        "[--vhost <vhost>] <queue>",
        (1, 1),
        "Purging queue '{0}' in vhost '{vhost}' ...",
        queues::purge,
    ),
    command(
        "delete_queue",
        "[--vhost <vhost>] <queue_name> [--if-empty|-e] [--if-unused|-u]",
        (1, 1),
        "Deleting queue '{0}' on vhost '{vhost}' {conditions}...",
        queues::delete,
    ),
    command(
        "close_connection",
        "<connectionpid> <explanation>",
        (2, 2),
        "Closing connection {0}, reason: {1}...",
        queues::close_connection,
    ),
    command(
        "close_all_connections",
        "[--vhost <vhost> --limit <limit>] [-n <node> --global] [--per-connection-delay <delay>] <explanation>",
        (1, 1),
        "Closing all connections {where}, reason: {0}...",
        queues::close_all_connections,
    ),
    command(
        "close_all_user_connections",
        "<username> <explanation>",
        (2, 2),
        "Closing connections of user {0}, reason: {1}...",
        queues::close_all_user_connections,
    ),
    // Definitions.
    command(
        "import_definitions",
        "<file_path | \"-\"> [--format <json>] [--skip-if-unchanged] [--timeout <timeout>]",
        (0, 1),
        "Importing definitions in JSON from {file} ...",
        definitions::import,
    ),
    command(
        "export_definitions",
        "<file_path | \"-\"> [--format <json>]",
        (1, 1),
        "{export}",
        definitions::export,
    ),
    // The server.
    command("status", "[--timeout <timeout>]", (0, 0), "Status of node {node} ...", node::status),
    command(
        "cluster_status",
        "",
        (0, 0),
        "Cluster status of node {node} ...",
        node::cluster_status,
    ),
    command("ping", "", (0, 0), "Will ping {node}. Timeout: {milliseconds} ms.", node::ping),
    command("version", "", (0, 0), "", node::version),
    command("await_startup", "[--timeout <timeout>]", (0, 0), "", node::await_startup),
    command("wait", "[<pidfile>] [--timeout <timeout>]", (0, 1), "", node::await_startup),
    command(
        "node_health_check",
        "[--timeout <timeout>]",
        (0, 0),
        "Checking health of node {node} ...",
        node::health,
    ),
    command("check_running", "", (0, 0), "", node::health),
    command("check_local_alarms", "", (0, 0), "", node::check_alarms),
    command("check_port_connectivity", "", (0, 0), "", node::health),
    command(
        "stop",
        "[--idempotent] [<pidfile>]",
        (0, 1),
        "Stopping and halting node {node} ...",
        node::stop,
    ),
    command("shutdown", "[--wait]", (0, 0), "Shutting down node {node} ...", node::stop),
    command(
        "set_vm_memory_high_watermark",
        "<fraction> | absolute <value>",
        (1, 2),
        "",
        node::set_watermark,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_there_once() {
        for command in &COMMANDS {
            let same = COMMANDS.iter().filter(|other| other.name == command.name);
            assert_eq!(same.count(), 1, "{}", command.name);
            assert!(!ABSENT.contains(&command.name), "{}", command.name);
        }
    }
}
