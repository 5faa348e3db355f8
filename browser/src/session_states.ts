// The states of a session and the transitions between them, as data.

export enum SessionState {
  /** The session has not had a connection yet. */
  New,
  /** The session ends with its connection. The server has not sent `welcome`, and may never send it. */
  Plain,
  /** The session ends with its connection to a wsrpc server. */
  Attached,
  /** The session has a connection, and may resume on another one: both sides count their messages. */
  Resumable,
  /** The connection is lost, and the session may resume on another one. */
  Detached,
  /** There is another connection, and this side has asked the server to resume the session. */
  Asking,
  /** This side closes the connection, and the session ends with it. */
  Closing,
  Over,
}

export enum SessionInput {
  /** The first connection opens. */
  Bound,
  /** The server sends `welcome`, and cannot resume the session. */
  Greeted,
  /** The server sends `welcome`. Both sides count their messages from now on. */
  Counted,
  /** The connection ends, or an attempt to connect fails, and the session is kept. */
  Cut,
  /** Another connection is open, on which this side asks to resume. */
  Asked,
  /** The server resumes the session. */
  Resumed,
}

/**
 * The next state for each input. An input that is not in the row of a state changes nothing. If this side closes, the
 * next state is `Closing` or `Over`.
 */
export const TABLE: { readonly [state in SessionState]?: { readonly [happened in SessionInput]?: SessionState } } = {
  [SessionState.New]: { [SessionInput.Bound]: SessionState.Plain },
  [SessionState.Plain]: {
    [SessionInput.Greeted]: SessionState.Attached,
    [SessionInput.Counted]: SessionState.Resumable,
    [SessionInput.Asked]: SessionState.Asking, // over HTTP, which only a wsrpc server has
  },
  [SessionState.Resumable]: {
    [SessionInput.Cut]: SessionState.Detached,
    [SessionInput.Asked]: SessionState.Asking,
  },
  [SessionState.Detached]: {
    [SessionInput.Cut]: SessionState.Detached,
    [SessionInput.Asked]: SessionState.Asking,
  },
  [SessionState.Asking]: {
    [SessionInput.Cut]: SessionState.Detached,
    [SessionInput.Resumed]: SessionState.Resumable,
  },
}
