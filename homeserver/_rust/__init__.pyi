from homeserver._rust import auth_graph, canonical, errors, event_auth, events, push, signing, state_res, state_tree

__all__ = ["auth_graph", "canonical", "errors", "event_auth", "events", "push", "signing", "state_res", "state_tree"]
