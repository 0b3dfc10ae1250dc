"""The teacher's vocabulary cut to what the text needs: fewer embeddings, a smaller head, the same model else."""
