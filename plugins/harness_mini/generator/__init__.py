"""How scenes are drawn: outlines, textures, the numbers drawn for each scene, and their pixels."""
