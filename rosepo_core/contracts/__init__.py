"""What plugins implement and what passes between stages. numpy and pydantic only; nothing above is imported."""
