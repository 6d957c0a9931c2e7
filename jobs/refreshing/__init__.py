"""Code of `embatch refresh`: the file that declares steps, the steps themselves, and their history."""
