from homeserver._rust import canonical, errors, event_auth, events, push, signing

__all__ = ["canonical", "errors", "event_auth", "events", "push", "signing"]
