from homeserver._rust import canonical, errors, event_auth, events, push, signing, state_res

__all__ = ["canonical", "errors", "event_auth", "events", "push", "signing", "state_res"]
