"""The services behind the gateway: the controller and the workers, and what they share."""
