"""The shapes on the wire, one module a noun: what requests take, what answers give, and how rows become JSON."""
