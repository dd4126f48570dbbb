import java.sql.*;
import java.util.*;

public class Jdbc {
    interface Body { void run() throws Exception; }
    static void check(String name, Body b) {
        try { b.run(); System.out.println("pass jdbc " + name); } catch (Throwable e) { System.out.println("fail jdbc " + name); System.out.println("    " + e); }
    }
    static Connection open(String more) throws SQLException {
        Map<String, String> e = System.getenv();
        return DriverManager.getConnection("jdbc:postgresql://" + e.get("PGHOST") + ":" + e.get("PGPORT") + "/" + e.get("PGDATABASE") + "?user=" + e.get("PGUSER") + "&password=" + e.get("PGPASSWORD") + more);
    }
    static void must(boolean b) { if (!b) throw new AssertionError(); }
    public static void main(String[] a) throws Exception {
        for (String mode : new String[]{"", "&preferQueryMode=simple", "&preferQueryMode=extendedForPrepared", "&preferQueryMode=extendedCacheEverything", "&prepareThreshold=1&binaryTransfer=true", "&sslmode=require"}) {
            if (mode.contains("ssl") && System.getenv("COMPAT_TLS") == null) continue;
            try (Connection c = open(mode)) {
                check("ddl" + mode, () -> { try (Statement s = c.createStatement()) { s.execute("drop table if exists jt"); s.execute("create table jt (id int primary key, t text, n numeric, ts timestamptz default now())"); } });
                check("batch" + mode, () -> { try (PreparedStatement p = c.prepareStatement("insert into jt values (?, ?, ?)")) { for (int i = 0; i < 500; i++) { p.setInt(1, i); p.setString(2, "t" + i); p.setBigDecimal(3, new java.math.BigDecimal(i)); p.addBatch(); } must(p.executeBatch().length == 500); } });
                check("batch again" + mode, () -> { try (PreparedStatement p = c.prepareStatement("update jt set t = ? where id = ?")) { for (int i = 0; i < 50; i++) { p.setString(1, "u"); p.setInt(2, i); p.addBatch(); } p.executeBatch(); } });
                check("fetch size" + mode, () -> { c.setAutoCommit(false); try (Statement s = c.createStatement()) { s.setFetchSize(10); int n = 0; try (ResultSet r = s.executeQuery("select * from jt")) { while (r.next()) n++; } must(n == 500); } c.commit(); c.setAutoCommit(true); });
                check("savepoint" + mode, () -> { c.setAutoCommit(false); try (Statement s = c.createStatement()) { Savepoint p = c.setSavepoint(); try { s.execute("select 1/0"); } catch (SQLException e) { must(e.getSQLState().equals("22012")); } c.rollback(p); s.execute("select 1"); } c.commit(); c.setAutoCommit(true); });
                check("metadata" + mode, () -> { DatabaseMetaData m = c.getMetaData(); m.getTables(null, null, "%", null).close(); m.getColumns(null, null, "jt", null).close(); m.getPrimaryKeys(null, null, "jt").close(); m.getIndexInfo(null, null, "jt", false, false).close(); m.getImportedKeys(null, null, "jt").close(); m.getTypeInfo().close(); });
                check("all metadata" + mode, () -> { DatabaseMetaData m = c.getMetaData(); m.getSchemas().close(); m.getSchemas(null, "p%").close(); m.getCatalogs().close(); m.getTableTypes().close(); m.getProcedures(null, null, "%").close(); m.getProcedureColumns(null, null, "up%", "%").close(); m.getFunctions(null, null, "up%").close(); m.getFunctionColumns(null, null, "up%", "%").close(); m.getColumnPrivileges(null, null, "jt", "%").close(); m.getTablePrivileges(null, null, "jt").close(); m.getBestRowIdentifier(null, null, "jt", 0, true).close(); m.getVersionColumns(null, null, "jt").close(); m.getExportedKeys(null, null, "jt").close(); m.getCrossReference(null, null, "jt", null, null, "jt").close(); m.getUDTs(null, null, "%", null).close(); m.getClientInfoProperties().close(); must(m.getMaxColumnNameLength() == 63); m.getSQLKeywords(); m.getTables(null, "pg_catalog", "%", new String[]{"SYSTEM TABLE", "SYSTEM VIEW"}).close(); m.getColumns(null, null, "%", "%").close(); });
                if (!mode.contains("=simple")) check("ref cursor" + mode, () -> { c.setAutoCommit(false); try (Statement s = c.createStatement()) { s.execute("create or replace function jrefs() returns refcursor language plpgsql as $$ declare r refcursor; begin open r for select id from jt order by id; return r; end $$"); } c.commit(); try (CallableStatement s = c.prepareCall("{? = call jrefs()}")) { s.registerOutParameter(1, Types.REF_CURSOR); s.execute(); int n = 0; try (ResultSet r = (ResultSet) s.getObject(1)) { while (r.next()) n++; } must(n >= 500); } c.commit(); c.setAutoCommit(true); });
                check("held" + mode, () -> { c.setAutoCommit(false); try (Statement s = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE, ResultSet.HOLD_CURSORS_OVER_COMMIT); ResultSet r = s.executeQuery("select id, t from jt order by id")) { must(r.next()); c.commit(); r.updateString(2, "new"); r.updateRow(); r.last(); must(r.getRow() >= 500); } c.commit(); c.setAutoCommit(true); });
                check("keys" + mode, () -> { try (PreparedStatement p = c.prepareStatement("insert into jt (id) values (9999)", Statement.RETURN_GENERATED_KEYS)) { p.executeUpdate(); must(p.getGeneratedKeys().next()); } });
                check("copy" + mode, () -> { var m = c.unwrap(org.postgresql.PGConnection.class).getCopyAPI(); must(m.copyIn("copy jt (id, t) from stdin", new java.io.StringReader("20000\tx\n20001\ty\n")) == 2); var w = new java.io.StringWriter(); must(m.copyOut("copy jt to stdout", w) > 500); });
                check("read only" + mode, () -> { c.setReadOnly(true); c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE); try (Statement s = c.createStatement()) { s.execute("select 1"); } c.setReadOnly(false); });
                check("cancel" + mode, () -> { try (Statement s = c.createStatement()) { s.setQueryTimeout(1); try { s.execute("select pg_sleep(20)"); must(false); } catch (SQLException e) { must(e.getSQLState().equals("57014")); } } });
                check("large object" + mode, () -> { c.setAutoCommit(false); var l = c.unwrap(org.postgresql.PGConnection.class).getLargeObjectAPI(); long id = l.createLO(); var o = l.open(id); o.write(new byte[100000]); o.seek(0); must(o.read(200000).length == 100000); o.close(); l.delete(id); c.commit(); c.setAutoCommit(true); });
                if (!mode.contains("=simple")) check("call" + mode, () -> { try (CallableStatement s = c.prepareCall("{? = call upper(cast(? as text))}")) { s.registerOutParameter(1, Types.VARCHAR); s.setString(2, "x"); s.execute(); must(s.getString(1).equals("X")); } });
                check("schema" + mode, () -> { c.setSchema("public"); must(c.getSchema().equals("public")); });
            }
        }
    }
}
