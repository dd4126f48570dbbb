package postgres

import (
	"slices"
	"strings"
	"sync"

	"github.com/sallyport/sallyport/internal/access"
)

func systemSchema(s string) bool {
	return s == "pg_catalog" || s == "information_schema" || strings.HasPrefix(s, "pg_toast")
}

// harmlessCatalogs are relations of the server that hold definitions: names, types, constraints. psql's \d family, drivers and ORMs read
// them. What is not here has values in it: statistics hold samples of every column, activity holds other sessions' statements, and so on.
const harmlessCatalogs = `
pg_aggregate pg_am pg_amop pg_amproc pg_attrdef pg_attribute pg_auth_members pg_available_extension_versions pg_available_extensions
pg_cast pg_class pg_collation pg_constraint pg_conversion pg_database pg_db_role_setting pg_default_acl pg_depend pg_description pg_enum
pg_event_trigger pg_extension pg_foreign_data_wrapper pg_foreign_server pg_foreign_table pg_group pg_index pg_indexes pg_inherits pg_init_privs
pg_language pg_largeobject_metadata pg_matviews pg_namespace pg_opclass pg_operator pg_opfamily pg_parameter_acl pg_partitioned_table
pg_policies pg_policy pg_proc pg_publication pg_publication_namespace pg_publication_rel pg_publication_tables pg_range pg_replication_slots pg_rewrite
pg_roles pg_rules pg_seclabel pg_seclabels pg_sequence pg_sequences pg_settings pg_shdepend pg_shdescription pg_shseclabel pg_statistic_ext pg_tables
pg_tablespace pg_timezone_abbrevs pg_timezone_names pg_transform pg_trigger pg_ts_config pg_ts_config_map pg_ts_dict pg_ts_parser
pg_ts_template pg_type pg_user pg_views`

// leakySchemaViews are the views of information_schema that may hold secrets; the others are definitions.
const leakySchemaViews = `_pg_user_mappings user_mapping_options user_mappings foreign_server_options foreign_data_wrapper_options
_pg_foreign_servers _pg_foreign_data_wrappers _pg_foreign_tables _pg_foreign_table_columns`

var harmlessCatalogSet = sync.OnceValue(func() map[string]struct{} {
	set := map[string]struct{}{}
	for name := range strings.FieldsSeq(harmlessCatalogs) {
		set[name] = struct{}{}
	}
	return set
})

// readableSystem says whether a relation that came with the server may be read at all.
func readableSystem(n relName) bool {
	switch n.schema {
	case "pg_catalog":
		_, ok := harmlessCatalogSet()[n.name]
		return ok
	case "information_schema":
		for leaky := range strings.FieldsSeq(leakySchemaViews) {
			if leaky == n.name {
				return false
			}
		}
		return true
	}
	return false
}

// shown says how much of a relation that came with the server holds definitions: all of it, all but a column, or nothing.
type shown struct {
	but  string // columns that do not, with spaces; "*" for all of them
	host string // what it is, for the question to policy where no class of data is known; empty where the session itself made it
}

// partlyShown are relations of which some columns are more than a definition.
var partlyShown = map[string]shown{
	"pg_authid":              {"rolpassword", "credentials"},
	"pg_shadow":              {"passwd", "credentials"},
	"pg_user_mapping":        {"umoptions", "credentials"},
	"pg_user_mappings":       {"umoptions", "credentials"},
	"pg_subscription":        {"subconninfo", "credentials"},
	"pg_stat_gssapi":         {"principal", "sessions"},
	"pg_stat_ssl":            {"client_dn client_serial issuer_dn", "sessions"},
	"pg_cursors":             {"statement", ""},
	"pg_prepared_statements": {"statement", ""},
}

func shownOf(n relName) shown {
	if readableSystem(n) {
		return shown{}
	}
	if s, ok := partlyShown[n.name]; ok && n.schema == "pg_catalog" {
		return s
	}
	switch n.name {
	case "pg_statistic", "pg_statistic_ext_data", "pg_stats", "pg_stats_ext", "pg_stats_ext_exprs":
		return shown{"*", "statistics"}
	case "pg_largeobject":
		return shown{"*", "large-objects"}
	case "pg_hba_file_rules", "pg_ident_file_mappings", "pg_file_settings":
		return shown{"*", "files"}
	}
	if n.schema == "information_schema" {
		return shown{"*", "credentials"}
	}
	return shown{"*", "sessions"}
}

// readsSystem judges a read of a relation of the server. What is more than definitions is refused where any class of data is known, because
// no mask is on it; else it is a transfer from the server's host, which no right to read tables gives.
func (a *analysis) readsSystem(n relName, all bool, columns []string) {
	s := shownOf(n)
	hidden := strings.Fields(s.but)
	if s.but == "" || s.but != "*" && !all && !slices.ContainsFunc(columns, func(c string) bool { return slices.Contains(hidden, c) }) {
		return
	}
	a.beyondDefinitions(n.display(), s.host)
}

func (a *analysis) beyondDefinitions(what, host string) {
	if len(a.cat.classes) > 0 {
		a.refuse("postgres.statistics", what+" may show values of protected columns or of other sessions")
		return
	}
	if host != "" {
		a.touch(access.Transfer, access.KindHost, host)
	}
}

// leakyExtension says that a view that an extension installs, in whatever schema, shows other sessions' statements.
func leakyExtension(name string) bool {
	return strings.HasPrefix(name, "pg_stat_statements") || strings.HasPrefix(name, "pg_stat_monitor") || name == "pg_buffercache"
}
