"""What lies in a model's folder, and in files of word vectors."""
