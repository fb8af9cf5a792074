"""Whether a newer release of this program is published: asked for by a person, or once a day where that is on."""
