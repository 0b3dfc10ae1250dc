"""What a flow will run and take, known before it runs: its steps, their checks, their estimates, what earlier runs say of them."""
