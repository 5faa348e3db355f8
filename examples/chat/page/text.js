// Text as it can be sent.

/** Half a character, as a cut or a broken paste leaves it, has no UTF-8: the server would take no message with it. */
export const wellFormed = (text) => text.replace(/\p{Surrogate}/gu, "\ufffd")

/** For names: no line breaks, and no space around it or twice. */
export const oneLine = (text) => wellFormed(text).replace(/[\s\p{Control}]+/gu, " ").trim()
