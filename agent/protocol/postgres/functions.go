package postgres

import (
	"strings"
	"sync"
)

var harmlessSet = sync.OnceValue(func() map[string]struct{} {
	set := map[string]struct{}{}
	for name := range strings.FieldsSeq(harmlessFunctions) {
		set[name] = struct{}{}
	}
	return set
})

// harmless says that pg_catalog's function of this name, whatever its arguments, only computes.
func harmless(name string) bool {
	_, ok := harmlessSet()[name]
	return ok
}

// runsText says that a function runs SQL, or reads tables, that its arguments give as text: what it touches cannot be seen.
func runsText(name string) bool {
	switch name {
	case "ts_stat", "ts_rewrite", "crosstab", "connectby", "xpath_table":
		return true
	}
	return strings.Contains(name, "_to_xml") || strings.HasPrefix(name, "dblink") ||
		strings.HasPrefix(name, "crosstab")
}

// reachesHost says that a function reads or writes files of the server, or the programs and large objects kept beside the tables.
func reachesHost(name string) bool {
	for _, p := range []string{"pg_read_", "pg_ls_", "pg_stat_file", "pg_file_", "lo_import", "lo_export", "pg_current_logfile", "pg_logdir_ls"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// refusedFunction names the rule by which a function is refused whatever policy says: it would move state that the room pins.
func refusedFunction(name string) (rule, hint string) {
	switch name {
	case "set_config":
		return "postgres.set-config", "set_config() could change what names mean; use SET for the settings that are allowed"
	case "pg_stat_get_activity", "pg_stat_get_backend_activity", "pg_cursor", "pg_prepared_statement", "pg_mcv_list_items":
		return "postgres.statistics", "this function shows values of other sessions or of protected columns"
	}
	return "", ""
}
