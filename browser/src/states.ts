// The states of a session and its transitions, as data.

export enum SessionState {
  /** The session has not had a connection yet. */
  New,
  /** It has a connection, with which it ends. The server has not said `welcome`, and may never do so. */
  Plain,
  /** It has a connection to a wsrpc server, with which it ends. */
  Attached,
  /** It has a connection, and may resume on another one: both sides count their messages. */
  Resumable,
  /** Its connection is lost, and it may resume on another one. */
  Detached,
  /** It has another connection, and has asked the server to resume it. */
  Asking,
  /** This side closes the connection, and the session ends with it. */
  Closing,
  Over,
}

export enum SessionInput {
  /** The first connection opens. */
  Bound,
  /** The server says `welcome`, and cannot resume the session. */
  Greeted,
  /** The server says `welcome`. Both sides count their messages from now on. */
  Counted,
  /** The connection ends, or another one cannot be made, and the session is kept. */
  Cut,
  /** Another connection is open, on which this side asks to resume. */
  Asked,
  /** The server resumes the session. */
  Resumed,
  /** This side closes. */
  Closed,
  /** The session cannot be kept. */
  Ended,
}

/** The state that follows. What is not in the table cannot happen. */
export const TABLE: Record<SessionState, { readonly [happened in SessionInput]?: SessionState }> = {
  [SessionState.New]: {
    [SessionInput.Bound]: SessionState.Plain,
    [SessionInput.Ended]: SessionState.Over,
  },
  [SessionState.Plain]: {
    [SessionInput.Greeted]: SessionState.Attached,
    [SessionInput.Counted]: SessionState.Resumable,
    [SessionInput.Closed]: SessionState.Closing,
    [SessionInput.Ended]: SessionState.Over,
  },
  [SessionState.Attached]: {
    [SessionInput.Closed]: SessionState.Closing,
    [SessionInput.Ended]: SessionState.Over,
  },
  [SessionState.Resumable]: {
    [SessionInput.Cut]: SessionState.Detached,
    [SessionInput.Closed]: SessionState.Closing,
    [SessionInput.Ended]: SessionState.Over,
  },
  [SessionState.Detached]: {
    [SessionInput.Cut]: SessionState.Detached,
    [SessionInput.Asked]: SessionState.Asking,
    [SessionInput.Ended]: SessionState.Over,
  },
  [SessionState.Asking]: {
    [SessionInput.Cut]: SessionState.Detached,
    [SessionInput.Resumed]: SessionState.Resumable,
    [SessionInput.Ended]: SessionState.Over,
  },
  [SessionState.Closing]: { [SessionInput.Ended]: SessionState.Over },
  [SessionState.Over]: {},
}
