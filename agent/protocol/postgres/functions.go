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

// readsStorage says that a function shows what the server keeps of tables under them: pages, the log of changes.
func readsStorage(name string) bool {
	for _, p := range []string{"pg_logical_slot_", "pg_get_wal_", "get_raw_page", "heap_page_", "heap_tuple_", "tuple_data_split", "bt_page_", "bt_multi_page_", "brin_page_",
		"brin_revmap_", "gin_page_", "gin_leafpage_", "gist_page_", "hash_page_"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
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

// showsMore says that a function shows what the views of the server that are no definitions show, and what that is: see shown.
func showsMore(name string) (host string, ok bool) {
	switch name {
	case "pg_stat_get_activity", "pg_stat_get_backend_activity":
		return "sessions", true
	case "pg_mcv_list_items":
		return "statistics", true
	case "pg_cursor", "pg_prepared_statement":
		return "", true
	}
	return "", false
}
