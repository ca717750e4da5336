export type Facets = Record<string, string | null>
export type Lane = 'hot' | 'cold'
export type OnStale = 'withhold' | 'annotate' | 'hold' | 'redispatch'
export type Acknowledged = 'shown' | 'applied' | 'refused'
export type Disposition = 'delivered' | 'withheld' | 'cancelled' | 'expired' | 'rejected'

/** An answer of the gateway that is an error: problem details as in RFC 9457. */
export class TidegateError extends Error {
  status: number
  /** Such as `forbidden`, `invalid_event`, `idempotency_conflict`. */
  code: string
  problem: { type?: string; title?: string; status?: number; detail?: string; [member: string]: unknown }
}

export interface Dispatch {
  task_id?: string
  task_type: string
  snapshot?: Facets
  depends_on?: string[]
  destination?: string
  metadata?: Record<string, unknown>
  request_id?: string
  lane?: Lane
  slot?: string
  on_newer?: 'allow' | 'enqueue' | 'enqueue_latest' | 'reject' | 'interrupt'
  protected?: boolean
  parent_task_id?: string
  independent?: boolean
  on_stale?: OnStale
  on_stale_failure?: OnStale
  when_absent?: 'deliver' | 'withhold' | 'hold'
  while_stale?: 'continue' | 'cancel'
  while_stale_grace_seconds?: number
  deadline_at?: string
  heartbeat_timeout_seconds?: number
  scope_grace_seconds?: number
  hold_ttl_seconds?: number
  max_redispatches?: number
  plan?: string[]
  attempt?: number
  valid_until?: string
  detached?: boolean
  deadline_seconds?: number
  start_timeout_seconds?: number
  on_late?: 'withhold' | 'deliver'
  watch_seconds?: number
}

export interface Difference {
  facet: string
  expected: string | null
  actual: string | null
  changed_by: { source: string; event_id: string; offset: number; at: string; cause_task_id?: string | null }
  since: 'dispatch' | 'running'
}

export interface PartVerdict {
  part_id: string
  decision: 'delivered' | 'withheld' | 'held'
  reason: string
  annotated?: boolean
  differences?: Difference[]
  differences_omitted?: number
}

export interface Part {
  part_id: string
  kind: 'show' | 'apply'
  payload?: unknown
  payload_ref?: { uri: string; sha256: string; bytes: number } | null
  content_type?: string | null
  depends_on?: string[] | null
  on_stale?: OnStale | null
  verdict: PartVerdict | null
}

interface TaskEcho {
  event_id: string
  task_id: string
  task_type?: string | null
  destination?: string | null
  metadata?: Record<string, unknown>
  request_id?: string | null
  slot?: string | null
  lane?: Lane
  occurred_at: string
}

export interface JudgedResult extends TaskEcho {
  outcome: 'completed' | 'failed'
  parts: Part[]
  error?: { code: string; message: string } | null
  /** False for an interim answer, after which the task goes on. */
  final?: boolean
  result: { source: string; event_id: string; offset: number; at: string }
  verdict: {
    decision: 'delivered' | 'withheld'
    reason: string
    parts: PartVerdict[]
    judged: { partition: number; context_offset: number; steps_offset: number; at: string }
    disposition?: Disposition | null
    /** The task had expired, and asked for its result all the same. */
    late?: boolean
  }
  snapshot?: Facets
  valid_until?: string | null
  shadow?: { decision: 'delivered' | 'withheld' | 'held'; reason: string } | null
}

/** What was delivered has become outdated since. */
export interface Outdated extends TaskEcho {
  result: JudgedResult['result']
  part_ids: string[]
  differences: Difference[]
}

/** A request to cancel met no task within the grace. */
export interface Unmatched {
  event_id: string
  task_id?: string | null
  request_id?: string | null
  slot?: string | null
  all?: boolean
  requested: JudgedResult['result']
  occurred_at: string
}

export interface Receipt {
  done: string[]
  failed: string[]
  in_flight: string[]
  not_attempted: string[]
}

export interface TaskStatus extends Partial<TaskEcho> {
  task_id: string
  status: 'running' | 'waiting' | 'ended'
  waiting_for?: 'children' | 'slot' | 'parent' | 'context' | 'user' | null
  disposition?: Disposition | null
  reason?: string | null
  detail?: string | null
  progress?: number | null
  message?: string | null
  receipt?: Receipt | null
  steps_started?: number
  steps_completed?: number
  stale?: boolean
  stale_facets?: string[]
  parent_task_id?: string | null
  taken?: Facets
  checkpoint?: unknown
  queued?: boolean
  input_required?: boolean
  acknowledged?: Acknowledged | null
  acknowledged_parts?: Record<string, Acknowledged>
  dispatched_at?: string | null
  ended_at?: string | null
}

export interface Held {
  task_id: string
  waiting_for: string
  until: string | null
  outcome: 'completed' | 'failed'
  result: JudgedResult['result']
  parts: Omit<Part, 'verdict'>[]
}

export interface Snapshot {
  facets: Facets
  tasks: TaskStatus[]
  held: Held[]
  unacknowledged: TaskStatus[]
}

interface At {
  /** Show it to `events({ cursor })` to go on after this event. */
  cursor: string
}

export type SessionEvent =
  | (At & { type: 'delivered' | 'withheld'; data: JudgedResult; released: boolean })
  | (At & { type: 'running' | 'stale' | 'held' | 'ended' | 'cancelled' | 'expired' | 'rejected'; data: TaskStatus })
  | (At & { type: 'outdated'; data: Outdated })
  | (At & { type: 'unmatched'; data: Unmatched })
  | (At & { type: 'command'; data: TaskEcho & { type: string; [member: string]: unknown } })
  | { type: 'reset'; data: { reason: string }; snapshot: Snapshot; cursor?: string }

export interface StreamState {
  connected: boolean
  /** Whether this tab has the connection that all tabs share. */
  leader: boolean
}

export class Tidegate {
  constructor(options: {
    url: string
    token?: string | ((refused: boolean) => string | Promise<string>)
    fetch?: typeof fetch
  })
  session(id: string, options?: { client?: string }): Session
}

export class Session {
  readonly id: string
  readonly client: string
  set(
    facets: Record<string, string>,
    options?: {
      unset?: string[]
      versions?: Record<string, number>
      expiresInSeconds?: Record<string, number>
      signal?: AbortSignal
    },
  ): Promise<string>
  navigated(view: string): Promise<string>
  present(): Promise<string>
  absent(options?: { leaving?: boolean }): Promise<unknown>
  dispatch(task: Dispatch, options?: { key?: string; signal?: AbortSignal }): Promise<Task>
  task(id: string): Task
  cancel(options: {
    request?: string
    slot?: string
    all?: boolean
    reason?: string
    signal?: AbortSignal
  }): Promise<string>
  acknowledge(
    delivery: Pick<JudgedResult, 'event_id' | 'task_id'>,
    outcome: Acknowledged,
    options?: { parts?: string[]; reason?: string; signal?: AbortSignal },
  ): Promise<string>
  contradictions(
    delivery: JudgedResult,
    part?: Part,
  ): { facet: string; expected: string | null; actual: string | null }[]
  context(options?: {
    facets?: string[]
    prefix?: string
    atLeast?: string
    signal?: AbortSignal
  }): Promise<{ facets: Facets; position: string }>
  tasks(options?: { atLeast?: string; signal?: AbortSignal }): Promise<{ tasks: TaskStatus[]; position: string }>
  inbox(options?: {
    signal?: AbortSignal
  }): Promise<{ held: Held[]; unacknowledged: TaskStatus[]; position: string }>
  events(options?: {
    cursor?: string | null
    shared?: boolean
    signal?: AbortSignal
    onState?: (state: StreamState) => void
  }): AsyncGenerator<SessionEvent, void, void>
}

export class Task {
  readonly session: Session
  readonly id: string
  readonly position: string | null
  status(options?: {
    wait?: number
    etag?: string
    signal?: AbortSignal
  }): Promise<(TaskStatus & { etag: string; held?: Held; results?: JudgedResult[] }) | null>
  cancel(options?: { reason?: string; wait?: number; signal?: AbortSignal }): Promise<{
    task_id: string
    position: string
    status?: TaskStatus
    receipt?: Receipt | null
  }>
}
