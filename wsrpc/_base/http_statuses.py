"""`STATUSES`: the statuses of errors, and the code and the meaning of each."""

STATUSES: dict[int, tuple[str, str]] = {
    400: ("bad_request", "The arguments or the request are not valid, or the error has a code of its own."),
    401: ("unauthorized", "The credentials are missing, not valid, or expired."),
    403: ("forbidden", "The user, or the page, may not do this."),
    404: ("not_found", "There is no such handler, run or object."),
    405: ("method_not_allowed", "This URL has another method."),
    408: ("request_timeout", "The body took too long."),
    409: ("conflict", "The request conflicts with what is there."),
    410: ("gone", "The items are kept no more, or the object is gone."),
    413: ("content_too_large", "The body is too large."),
    415: ("unsupported_media_type", "The body is compressed, or not JSON."),
    422: ("unprocessable_content", "The key was used with other arguments."),
    429: ("too_many_requests", "The caller is above a rate or a quota: see `Retry-After`."),
    431: ("headers_too_large", "There are too many headers."),
    500: ("internal", "The handler has failed, or the connection has ended and it may have run."),
    501: ("unimplemented", "This is not implemented."),
    503: ("unavailable", "The server is busy or restarts. With `Retry-After`, nothing has run."),
    504: ("deadline_exceeded", "The time is over."),
}
"""Only an application that chooses another one for its own refusals sends others."""
