-- What the manager gives parts over their files: a row for each time that somebody asked. Of each `scope`
-- (`cluster`: where the topics of a bus cluster go; `zone`, `agent`: what agents collect) and `name` the one with the
-- greatest `id` counts; `text` is NULL where the parts are to go by their files.
ALTER TABLE routes RENAME TO documents;
ALTER TABLE documents RENAME COLUMN cluster TO name;
ALTER TABLE documents ADD COLUMN scope TEXT NOT NULL DEFAULT 'cluster';
DROP INDEX routes_cluster;
CREATE INDEX documents_scope ON documents (scope, name, id);
