class UserError(Exception):
    """A mistake that the user can mend; its message is one line that says where and how."""
