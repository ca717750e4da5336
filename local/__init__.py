"""What only a developer's machine needs: a local broker, made-up traffic, the demo, the replay of conversations.

Production images do without it. Its dependencies are the extra `local`.
"""
