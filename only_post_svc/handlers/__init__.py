"""The handlers, each beside the operation that describes it: parse, call one verb of the domain, answer."""
