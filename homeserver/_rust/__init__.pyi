from homeserver._rust import canonical, errors, event_auth, events, push, signing, state_res, state_tree

__all__ = ["canonical", "errors", "event_auth", "events", "push", "signing", "state_res", "state_tree"]
