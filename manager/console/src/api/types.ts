/** The shapes of the API under short names. All of them come from `schema.d.ts`. */
import type { components } from './schema';

type Schemas = components['schemas'];

export type Counts = Schemas['Counts'];
export type TopicSummary = Schemas['TopicSummary'];
export type TopicsPage = Schemas['TopicsPage'];
export type TopicDetail = Schemas['TopicDetail'];
export type TopicHost = Schemas['TopicHost'];
export type TopicCounts = Schemas['TopicCounts'];
export type MinuteCounts = Schemas['MinuteCounts'];
export type LossItem = Schemas['LossItem'];
export type LossesPage = Schemas['LossesPage'];
export type DeadItem = Schemas['DeadItem'];
export type DeadReason = Schemas['DeadReason'];
export type DeadPage = Schemas['DeadPage'];
export type NodeConfig = Schemas['NodeConfig'];
export type NodeItem = Schemas['NodeItem'];
export type NodesPage = Schemas['NodesPage'];
export type ClusterItem = Schemas['ClusterItem'];
export type ClustersPage = Schemas['ClustersPage'];
export type OpenWindow = Schemas['OpenWindow'];
export type Window = Schemas['Window'];
export type AuditItem = Schemas['AuditItem'];
export type AuditPage = Schemas['AuditPage'];
