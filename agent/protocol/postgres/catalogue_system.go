package postgres

import (
	"strings"
	"sync"
)

func systemSchema(s string) bool {
	return s == "pg_catalog" || s == "information_schema" || strings.HasPrefix(s, "pg_toast")
}

// harmlessCatalogs are relations of the server that hold definitions: names, types, constraints. psql's \d family, drivers and ORMs read
// them. What is not here is refused: statistics hold samples of every column, activity holds other sessions' statements, and so on.
const harmlessCatalogs = `
pg_aggregate pg_am pg_amop pg_amproc pg_attrdef pg_attribute pg_auth_members pg_available_extension_versions pg_available_extensions
pg_cast pg_class pg_collation pg_constraint pg_conversion pg_database pg_db_role_setting pg_default_acl pg_depend pg_description pg_enum
pg_event_trigger pg_extension pg_foreign_data_wrapper pg_foreign_server pg_foreign_table pg_group pg_index pg_indexes pg_inherits pg_init_privs
pg_language pg_largeobject_metadata pg_matviews pg_namespace pg_opclass pg_operator pg_opfamily pg_parameter_acl pg_partitioned_table
pg_policies pg_policy pg_proc pg_publication pg_publication_namespace pg_publication_rel pg_publication_tables pg_range pg_rewrite
pg_roles pg_rules pg_seclabel pg_seclabels pg_sequence pg_sequences pg_settings pg_shdepend pg_shdescription pg_statistic_ext pg_tables
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

// leakyExtension says that a view that an extension installs, in whatever schema, shows other sessions' statements.
func leakyExtension(name string) bool {
	return strings.HasPrefix(name, "pg_stat_statements") || strings.HasPrefix(name, "pg_stat_monitor") || name == "pg_buffercache"
}
